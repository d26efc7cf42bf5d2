#pragma once

#include <filesystem>

namespace moesaic::files {

/// Keeps a second live job away from a folder of outputs or from one output, until the end of its
/// scope or process. The kernel lets go of it with the process, so that no stale lock can be left.
class RunLock {
 public:
  static constexpr const char* kName = "lock";  // of the file in the folder

  /// Locks a folder by a file in it, which stays. Throws kCannotCreate that names host, process and
  /// job of the holder. On a filesystem without locks it warns and lets the job run.
  static RunLock of_folder(const std::filesystem::path& folder);
  /// Locks a file or folder that need not exist yet, by a hidden file .NAME.lock in its folder,
  /// which goes with the lock. Throws as of_folder does. Makes the folder that it is in.
  static RunLock beside(const std::filesystem::path& path);
  RunLock(RunLock&& other) noexcept;
  RunLock& operator=(RunLock&&) = delete;
  ~RunLock();

 private:
  RunLock(std::filesystem::path file, const std::filesystem::path& what, bool stays);
  bool take(const std::filesystem::path& what);

  std::filesystem::path file_;
  bool stays_;
  int descriptor_ = -1;
};

}  // namespace moesaic::files
