#include "files/run_lock.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <string>
#include <utility>

#include "base/error.h"
#include "base/host.h"
#include "base/log.h"
#include "base/text.h"
#include "files/durable.h"

namespace moesaic::files {
namespace {

std::string own_name() {
  const char* const job = std::getenv("SLURM_JOB_ID");
  return fmt::format("host {} process {} job {}\n", host_name(), getpid(),
                     job != nullptr ? job : "none");
}

// A colleague whose umask kept the file from others can still lock it.
int open_lock(const std::filesystem::path& file) {
  const int descriptor = open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (descriptor >= 0 || errno != EACCES) {
    return descriptor;
  }
  const int read_only = open(file.c_str(), O_RDONLY | O_CLOEXEC);
  errno = read_only < 0 ? EACCES : errno;
  return read_only;
}

// Another process may have removed the file since it was opened.
bool is_still_there(const std::filesystem::path& file, int descriptor) {
  struct stat opened {};
  struct stat now {};
  return fstat(descriptor, &opened) == 0 && stat(file.c_str(), &now) == 0 &&
         opened.st_ino == now.st_ino && opened.st_dev == now.st_dev;
}

}  // namespace

RunLock RunLock::of_folder(const std::filesystem::path& folder) {
  return {folder / kName, folder, true};
}

RunLock RunLock::beside(const std::filesystem::path& path) {
  // One name for one place, whatever links lead to it.
  const auto place = std::filesystem::weakly_canonical(std::filesystem::absolute(path));
  const auto whole = place.has_filename() ? place : place.parent_path();
  try {
    make_folder(whole.parent_path());
  } catch (const Error& error) {
    throw Error(error.code(), fmt::format("{}: {}", whole.string(), error.what()));
  }
  const bool beside = access(whole.parent_path().c_str(), W_OK) == 0;
  const auto file = whole.parent_path() / fmt::format(".{}.lock", whole.filename().string());
  return {beside || !is_folder(whole) ? file : whole / kName, whole, false};
}

RunLock::RunLock(std::filesystem::path file, const std::filesystem::path& what, bool stays)
    : file_(std::move(file)), stays_(stays) {
  while (!take(what)) {
    close(std::exchange(descriptor_, -1));
  }
}

RunLock::RunLock(RunLock&& other) noexcept
    : file_(std::move(other.file_)),
      stays_(other.stays_),
      descriptor_(std::exchange(other.descriptor_, -1)) {}

// False: the file was removed meanwhile.
bool RunLock::take(const std::filesystem::path& what) {
  descriptor_ = open_lock(file_);
  if (descriptor_ < 0) {
    fail_write(file_, "create", errno);
  }
  if (flock(descriptor_, LOCK_EX | LOCK_NB) != 0) {
    const int error = errno;
    if (error != EWOULDBLOCK) {
      static bool said = false;
      if (!std::exchange(said, true)) {
        log::warn(fmt::format("{}: {}; two jobs that write there would not be noticed",
                              file_.string(), std::strerror(error)));
      }
      return true;
    }
    const std::string holder(trim(read_whole(file_)));
    close(std::exchange(descriptor_, -1));
    throw Error(Exit::kCannotCreate,
                fmt::format("{} is in use by another live job ({}): wait for it, or choose another "
                            "place for this job's outputs",
                            std::filesystem::absolute(what).string(), holder));
  }
  if (!is_still_there(file_, descriptor_)) {
    return false;
  }
  const std::string name = own_name();
  const bool written = ftruncate(descriptor_, 0) == 0 &&
                       write(descriptor_, name.data(), name.size()) == std::ssize(name);
  if (!written && errno != EBADF && errno != EINVAL) {  // it was opened for reading alone
    log::warn(fmt::format("{}: {}", file_.string(), std::strerror(errno)));
  }
  return true;
}

RunLock::~RunLock() {
  if (descriptor_ >= 0) {
    if (!stays_) {
      std::error_code ignored;
      std::filesystem::remove(file_, ignored);
    }
    close(descriptor_);
  }
}

}  // namespace moesaic::files
