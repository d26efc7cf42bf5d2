#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace moesaic::cli {

/// What a file or folder is, and what is wrong with it.
struct Verdict {
  std::string what;  // it is, with its numbers
  std::vector<std::string> problems;
  std::vector<std::string> notes = {};  // more of what it is
};

/// Reads all of a corpus, checkpoint, folder of checkpoints, Hugging Face folder, trace, routing
/// record, or file of scores or continuations. Throws (an Error, or filesystem_error with the path)
/// if it is none of these, or cannot be read.
Verdict judge(const std::filesystem::path& path);

/// The bytes that this reads: all below a folder, or those that a manifest lists. Throws (an Error,
/// or filesystem_error with the path) if one of them may not be read.
double bytes_to_read(const std::string& path);

}  // namespace moesaic::cli
