#include "base/log.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <system_error>
#include <utility>

#include "base/error.h"

namespace moesaic::log {
namespace {

/// Where a process prints to; "" if that is not known.
std::string output_of(pid_t process) {
  std::error_code unknown;
  return std::filesystem::read_symlink(fmt::format("/proc/{}/fd/1", process), unknown).string();
}

/// Whether what is printed is seen on a terminal. Open MPI gives ranks one of their own in any
/// case: what counts is where their parent, mpirun, prints to. A script in between shares the
/// rank's: then nobody knows.
bool prints_to_terminal() {
  if (isatty(STDOUT_FILENO) == 0) {
    return false;
  }
  if (std::getenv("OMPI_COMM_WORLD_RANK") == nullptr) {
    return true;
  }
  const std::string target = output_of(getppid());
  return target != output_of(getpid()) &&
         (target.starts_with("/dev/pts/") || target.starts_with("/dev/tty"));
}

struct State {
  int rank = 0;
  std::string host;
  Level level = Level::kInfo;
  bool terminal = prints_to_terminal();
  std::size_t open_width = 0;  // characters of a progress line that stands unfinished
  std::shared_ptr<spdlog::logger> out, err, file;
};

constexpr const char* kPattern = "%Y-%m-%dT%H:%M:%SZ %v";

std::shared_ptr<spdlog::logger> make(const std::string& name, spdlog::sink_ptr sink) {
  sink->set_formatter(
      std::make_unique<spdlog::pattern_formatter>(kPattern, spdlog::pattern_time_type::utc));
  auto logger = std::make_shared<spdlog::logger>(name, std::move(sink));
  logger->set_level(spdlog::level::trace);
  logger->flush_on(spdlog::level::trace);
  logger->set_error_handler([](const std::string&) {});  // a lost line ends nothing
  return logger;
}

State& state() {
  static State instance = [] {
    State s;
    s.out = make("out", std::make_shared<spdlog::sinks::stdout_sink_mt>());
    s.err = make("err", std::make_shared<spdlog::sinks::stderr_sink_mt>());
    return s;
  }();
  return instance;
}

void end_progress_line(State& s) {
  if (s.open_width > 0) {
    std::fputc('\n', stdout);
    std::fflush(stdout);
    s.open_width = 0;
  }
}

void write(Level level, const char* label, std::string_view message) {
  State& s = state();
  const bool reports = s.rank == 0 || level == Level::kError;
  if (level < s.level || !reports) {
    return;
  }
  end_progress_line(s);
  const std::string prefix = s.rank == 0 ? "" : fmt::format("[rank {} {}] ", s.rank, s.host);
  const std::string line = fmt::format("{} {}{}", label, prefix, message);
  (level >= Level::kWarn ? s.err : s.out)->info(line);
  if (s.file) {
    s.file->info(line);
  }
}

}  // namespace

void guard_streams() {
  std::signal(SIGPIPE, SIG_IGN);
  for (const int descriptor : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    if (fcntl(descriptor, F_GETFD) == -1) {
      open("/dev/null", O_RDWR);  // takes the lowest number that is free
    }
  }
}

void set_up(int rank, const std::string& host, Level level) {
  State& s = state();
  s.rank = rank;
  s.host = host;
  s.level = level;
}

void add_file(const std::filesystem::path& file) {
  State& s = state();
  if (s.rank != 0) {
    return;
  }
  try {
    s.file = make("file", std::make_shared<spdlog::sinks::basic_file_sink_mt>(file.string()));
  } catch (const spdlog::spdlog_ex& error) {
    throw Error(Exit::kCannotCreate, error.what());
  }
  s.file->set_error_handler([file, said = false](const std::string& reason) mutable {
    if (!std::exchange(said, true)) {
      state().err->info(fmt::format("WARN {}: lines are lost: {}", file.string(), reason));
    }
  });
}

void debug(std::string_view message) { write(Level::kDebug, "DEBUG", message); }
void info(std::string_view message) { write(Level::kInfo, "INFO", message); }
void warn(std::string_view message) { write(Level::kWarn, "WARN", message); }
void error(std::string_view message) { write(Level::kError, "ERROR", message); }

void print(std::string_view text) {
  State& s = state();
  if (s.rank != 0) {
    return;
  }
  end_progress_line(s);
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fputc('\n', stdout);
  std::fflush(stdout);
}

void progress(std::string_view line, std::string_view plain) {
  State& s = state();
  if (s.rank != 0) {
    return;
  }
  if (!s.terminal) {
    info(plain);
    return;
  }
  const std::size_t blank = s.open_width > line.size() ? s.open_width - line.size() : 0;
  const std::string text = fmt::format("\r{}{}", line, std::string(blank, ' '));
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
  s.open_width = line.size();
  if (s.file) {
    s.file->info(fmt::format("INFO {}", plain));
  }
}

void set_terminal(bool terminal) { state().terminal = terminal; }
bool is_terminal() { return state().terminal; }

}  // namespace moesaic::log
