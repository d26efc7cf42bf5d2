#include <fmt/format.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <functional>
#include <new>

#include "base/io_error.h"
#include "base/log.h"
#include "base/text.h"
#include "cli/jobs.h"
#include "cli/judge.h"

namespace moesaic::cli {
namespace {

namespace fs = std::filesystem;

/// Ends this process when it has computed far longer than so many bytes need.
void limit_cpu_time(double bytes) {
  constexpr double kSeconds = 5.0, kBytesPerSecond = 200'000.0;
  const auto seconds = static_cast<rlim_t>(kSeconds + bytes / kBytesPerSecond);
  const rlimit limit{seconds, seconds + 1};
  ::setrlimit(RLIMIT_CPU, &limit);
}

/// Prints the verdict; prepare: what to do with the bytes to read before any is read.
int verify_within(const std::string& path, const std::function<void(double)>& prepare) {
  const std::string name = fs::absolute(path).lexically_normal().string();
  const auto nothing_said = [&](const std::string& what, Exit code) {
    log::print(fmt::format("{}: {}", name, what));
    return static_cast<int>(code);
  };
  try {
    prepare(bytes_to_read(path));
    const Verdict verdict = judge(path);
    if (verdict.problems.empty()) {
      nothing_said(fmt::format("sound ({})", verdict.what), Exit::kDone);
      for (const std::string& note : verdict.notes) {
        log::print("  " + note);
      }
      return static_cast<int>(Exit::kDone);
    }
    log::print(fmt::format("{}: {} ({})", name, counted(std::ssize(verdict.problems), "problem"),
                           verdict.what));
    for (const std::string& problem : verdict.problems) {
      log::print("  " + problem);
    }
    return static_cast<int>(Exit::kBadData);
  } catch (const Error& error) {
    return nothing_said(error.what(), error.code());
  } catch (const fs::filesystem_error& error) {
    const std::string where = fs::absolute(error.path1()).lexically_normal().string();
    return nothing_said(fmt::format("{}cannot be read: {}; nothing is known of what it holds",
                                    where == name ? "" : where + " ", error.code().message()),
                        to_error(error).code());
  } catch (const std::bad_alloc&) {
    return nothing_said("this host has not enough memory to judge it", Exit::kInternal);
  } catch (const std::exception& error) {
    return nothing_said(fmt::format("was not judged: {}", error.what()), Exit::kInternal);
  }
}

}  // namespace

int verify_here(const std::string& path) {
  return verify_within(path, [](double) {});
}

namespace {

/// HDF5 may crash or loop on a damaged file, so a process of its own judges each path.
int verify_apart(const std::string& path) {
  const pid_t child = ::fork();
  if (child < 0) {
    throw Error(Exit::kInternal,
                fmt::format("verify: no new process can be made ({})", std::strerror(errno)));
  }
  if (child == 0) {
    ::_exit(verify_within(path, limit_cpu_time));
  }
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (WIFEXITED(status)) {
    return WEXITSTATUS(status);
  }
  const std::string name = fs::absolute(path).lexically_normal().string();
  const int signal = WTERMSIG(status);
  constexpr std::array kOfDamage = {SIGSEGV, SIGBUS, SIGABRT, SIGFPE, SIGILL, SIGXCPU};
  if (std::find(kOfDamage.begin(), kOfDamage.end(), signal) == kOfDamage.end()) {
    log::print(fmt::format("{}: was not judged: its process was ended from outside ({}; memory?)",
                           name, ::strsignal(signal)));
    return static_cast<int>(Exit::kInternal);
  }
  log::print(
      fmt::format("{}: is damaged, the HDF5 library fails on it ({}); copy it again, or "
                  "make it again",
                  name, ::strsignal(signal)));
  return static_cast<int>(Exit::kBadData);
}

}  // namespace

int verify(const std::vector<std::string>& paths) {
  int worst = 0;
  for (const std::string& path : paths) {
    worst = std::max(worst, verify_apart(path));
  }
  return worst;
}

}  // namespace moesaic::cli
