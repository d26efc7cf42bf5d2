#pragma once

#include <filesystem>
#include <string>

namespace moesaic::train {

/// run.control on the rank that looks for it. A file is known by its text and the time it was
/// written, so that a change that a checkpoint already has is told from the same one asked again.
class ControlFile {
 public:
  explicit ControlFile(std::string path) : path_(std::move(path)) {}

  /// What is there to be done; empty: no file, or one that was refused.
  std::string identity() const;
  std::string text() const;
  /// Renames it to .done. Throws kIoError.
  void done() const { rename(".done"); }
  /// Renames it to .refused. If that fails, this process ignores the file from now on.
  void refuse();

 private:
  void rename(const std::string& ending) const;

  std::filesystem::path path_;  // empty: none
  std::string refused_;         // an identity
};

}  // namespace moesaic::train
