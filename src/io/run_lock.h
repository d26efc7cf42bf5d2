#pragma once

#include <filesystem>

namespace moesaic::io {

/// Keeps a second live job away from a folder of outputs, until the end of its scope or process.
/// The kernel lets go of it with the process, so that no stale lock can be left.
class RunLock {
 public:
  static constexpr const char* kName = "lock";  // of the file in the folder

  /// Throws kCannotCreate, naming host, process and job of the holder. On a filesystem without
  /// locks it warns and lets the job run.
  explicit RunLock(const std::filesystem::path& folder);
  ~RunLock();
  RunLock(const RunLock&) = delete;
  RunLock& operator=(const RunLock&) = delete;

 private:
  int descriptor_ = -1;
};

}  // namespace moesaic::io
