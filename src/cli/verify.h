#pragma once

#include <string>
#include <vector>

namespace moesaic::cli {

/// The job `verify`: says of each corpus, checkpoint, trace or scores whether it is sound, or what
/// is wrong with it. Returns the exit code: 0, 65 (a problem), 66 (missing, or may not be read) or
/// 74 (reading failed).
int verify(const std::vector<std::string>& paths);

/// The same for one path, in this process.
int verify_here(const std::string& path);

/// The bytes that this reads: all below a folder, or those that a manifest lists. Throws (an Error,
/// or filesystem_error with the path) if one of them may not be read.
double bytes_to_read(const std::string& path);

}  // namespace moesaic::cli
