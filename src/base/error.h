#pragma once

#include <stdexcept>
#include <string>
#include <string_view>

namespace moesaic {

/// How the process ends. slurm/README.md says on which codes batch scripts start again.
enum class Exit : int {
  kDone = 0,
  kUsage = 64,         // command line or config
  kBadData = 65,       // an input is damaged or contradicts another
  kNoInput = 66,       // an input is missing or unreadable
  kInternal = 70,      // a bug, or the watchdog
  kCannotCreate = 73,  // an output cannot be created, or does not fit
  kIoError = 74,       // a read or write failed later
  kStopped = 75,       // stopped early with a good checkpoint
  kMismatch = 76,      // ranks, binary or checkpoint disagree
  kBadNumbers = 77,    // NaN or infinity
  kTerminated = 143,   // asked to stop, with nothing new saved
};

/// The caller's place in the source. Not std::source_location: clang-tidy 14 cannot parse it with
/// libstdc++ 12.
struct Where {
  const char* file;
  int line;
  static Where here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    return {file, line};
  }
};

/// Every failure the program foresees: what went wrong, in the user's terms (file, key, numbers,
/// remedy), and the exit code that it ends with.
class Error : public std::runtime_error {
 public:
  Error(Exit code, const std::string& message, Where where = Where::here());
  Error(const Error&);
  Error& operator=(const Error&);
  ~Error() override;
  Exit code() const { return code_; }
  Where where() const { return where_; }

 private:
  Exit code_;
  Where where_;
};

[[noreturn]] void fail_requirement(std::string_view what, Where where);

/// Throws Error(kInternal) if an invariant of our own does not hold.
inline void require(bool holds, std::string_view what, Where where = Where::here()) {
  if (!holds) {
    fail_requirement(what, where);
  }
}

}  // namespace moesaic
