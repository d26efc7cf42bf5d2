#pragma once

#include <string>
#include <vector>

namespace moesaic::cli {

/// The job `verify`: says of each corpus, checkpoint, trace or scores whether it is sound, or what
/// is wrong with it. Returns the exit code: 0, 65 (a problem) or 66 (something is missing).
int verify(const std::vector<std::string>& paths);

/// Likewise of one path, in this process.
int verify_here(const std::string& path);

}  // namespace moesaic::cli
