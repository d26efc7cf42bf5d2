#include "io/run_lock.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <string>

#include "base/error.h"
#include "base/host.h"
#include "base/log.h"
#include "base/text.h"
#include "io/files.h"

namespace moesaic::io {
namespace {

std::string own_name() {
  const char* const job = std::getenv("SLURM_JOB_ID");
  return fmt::format("host {} process {} job {}\n", host_name(), getpid(),
                     job != nullptr ? job : "none");
}

}  // namespace

RunLock::RunLock(const std::filesystem::path& folder) {
  const std::filesystem::path file = folder / kName;
  descriptor_ = open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (descriptor_ < 0) {
    fail_write(file, "create", errno);
  }
  if (flock(descriptor_, LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) {
      log::warn(fmt::format("{}: {}; two jobs on this folder would not be noticed", file.string(),
                            std::strerror(errno)));
      return;
    }
    throw Error(Exit::kCannotCreate,
                fmt::format("{} is in use by another live job ({}): wait for it, or choose another "
                            "run.dir",
                            std::filesystem::absolute(folder).string(), trim(read_whole(file))));
  }
  const std::string name = own_name();
  const bool written = ftruncate(descriptor_, 0) == 0 &&
                       write(descriptor_, name.data(), name.size()) == std::ssize(name);
  if (!written) {
    log::warn(fmt::format("{}: {}", file.string(), std::strerror(errno)));
  }
}

RunLock::~RunLock() {
  if (descriptor_ >= 0) {
    close(descriptor_);
  }
}

}  // namespace moesaic::io
