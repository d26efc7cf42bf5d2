#include "comm/watchdog.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "base/host.h"
#include "base/log.h"
#include "comm/diagnosis.h"
#include "comm/guard.h"
#include "comm/stop.h"

namespace moesaic::comm {
namespace {

constexpr int kQuestion = 1;  // where do you stand?
constexpr int kAnswer = 2;    // a Standing
constexpr int kGoOn = 3;      // some rank makes progress: wait once more
// Seconds. The last rank waits longer than rank 0, which then ends the job before it reports; all
// others would report only if both were silent.
constexpr double kFirstReports = 4.0, kLastReports = 8.0, kEachReports = 14.0;
constexpr double kNap = 0.5, kShortNap = 0.02;

void sleep_for(double seconds) {
  std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
}

// Whether all threads may call MPI at once.
bool threads_may_talk() {
  int provided = MPI_THREAD_SINGLE;
  MPI_Query_thread(&provided);
  return provided == MPI_THREAD_MULTIPLE;
}

}  // namespace

double automatic_step_limit(std::vector<double> durations) {
  constexpr double kAtLeast = 600.0, kFactor = 10.0;
  if (durations.empty()) {
    return kAtLeast;
  }
  const auto middle = durations.begin() + static_cast<std::ptrdiff_t>(durations.size() / 2);
  std::nth_element(durations.begin(), middle, durations.end());
  return std::max(kAtLeast, kFactor * *middle);
}

Watchdog::Watchdog(const Limits& limits, const Communicator& world)
    : limits_(limits), world_(world) {
  if (world.size() > 1 && !threads_may_talk()) {
    board_.emplace(world);
  } else if (world.size() > 1) {
    MPI_Comm_dup(world.handle(), &talk_);
    hosts_ = world.gather(host_name(), 0);
    auto at_last = world.gather(host_name(), world.size() - 1);
    if (!at_last.empty()) {
      hosts_ = std::move(at_last);
    }
  }
  thread_ = std::thread([this] { watch(); });
}

Watchdog::~Watchdog() { stop(); }

void Watchdog::stop() {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) {
    thread_.join();
  }
}

void Watchdog::close() {
  world_.barrier();
  stop();
  if (talk_ != MPI_COMM_NULL) {
    MPI_Comm_free(&talk_);
  }
  if (board_) {
    board_->close();
  }
}

void Watchdog::begin(Kind kind, std::string_view what, std::int64_t step) {
  const std::lock_guard lock(mutex_);
  constexpr std::size_t kKept = 101;
  if (step_ >= 0) {
    durations_.resize(std::min(kKept, steps_done_ + 1));
    durations_[steps_done_ % kKept] = since_.seconds();
    ++steps_done_;
  }
  kind_ = kind;
  what_ = what;
  step_ = step;
  waited_ = 0.0;
  since_.restart();
}

void Watchdog::step(std::int64_t step) { begin(Kind::kStep, "", step); }

void Watchdog::iteration(std::string_view what) { begin(Kind::kIteration, what); }

void Watchdog::loading() { begin(Kind::kLoad, "loading"); }

void Watchdog::saving() { begin(Kind::kSave, "a save"); }

void Watchdog::follow(const PhaseClock* clock) {
  const std::lock_guard lock(mutex_);
  clock_ = clock;
}

double Watchdog::limit() const {
  constexpr double kMinutes = 60.0;
  const auto chosen = [](double given, double automatic) {
    return given >= 0.0 ? given : automatic;
  };
  switch (kind_) {
    case Kind::kLoad:
      return chosen(limits_.load, 10.0 * kMinutes);
    case Kind::kSave:
      return chosen(limits_.save, 60.0 * kMinutes);
    case Kind::kIteration:
      return chosen(limits_.step, 10.0 * kMinutes);
    case Kind::kStep:
      break;
  }
  return chosen(limits_.step, automatic_step_limit(durations_));
}

// "no progress for 612 s; run.step_timeout ends the job"
std::string Watchdog::ending(double waited) const {
  const std::lock_guard lock(mutex_);
  const char* const key = kind_ == Kind::kLoad   ? "run.load_timeout"
                          : kind_ == Kind::kSave ? "run.save_timeout"
                                                 : "run.step_timeout";
  return fmt::format("no progress for {:.0f} s; {} ends the job", waited, key);
}

Standing Watchdog::standing() const {
  Standing standing = world_.ledger() != nullptr ? world_.ledger()->standing() : Standing{};
  const std::lock_guard lock(mutex_);
  std::string text = what_;
  if (step_ >= 0) {
    text = fmt::format("step {}", step_);
    if (clock_ != nullptr) {
      text = fmt::format("phase {} of {}", kPhaseNames[static_cast<std::size_t>(clock_->phase())],
                         text);
    }
  }
  if (standing.doing.front() != '\0') {
    text = fmt::format("{} ({})", text, standing.doing.data());
  }
  standing.silent = waited_;
  standing.limit = limit();
  standing.doing = {};
  text.copy(standing.doing.data(), standing.doing.size() - 1);
  return standing;
}

void Watchdog::watch() {
  std::unique_lock lock(mutex_);
  while (!ending_) {
    const Timer nap;
    changed_.wait_for(lock, std::chrono::duration<double>(kNap));
    waited_ += std::min(nap.seconds(), 2.0 * kNap);  // a longer one: this process was stopped
    const double waited = waited_;
    const bool late = waited > limit();
    lock.unlock();
    answer_questions();
    check_for_trouble();
    if (board_) {
      board_->publish(standing());
    }
    if (late) {
      expire(waited);
    }
    if (asked_) {
      report(waited);
    }
    lock.lock();
    waited_ = late ? 0.0 : waited_;
  }
}

// What a library has found out about other ranks, or the network, ends the job at once.
void Watchdog::check_for_trouble() {
  const std::string trouble =
      world_.ledger() != nullptr ? world_.ledger()->trouble() : std::string();
  if (!trouble.empty()) {
    log::error(fmt::format("fatal: {} in {}", trouble, standing().doing.data()));
    abort_all(static_cast<int>(Exit::kInternal));
  }
}

// What is sent stays in memory until the end, which is near.
void Watchdog::ask(int rank) {
  MPI_Request request = MPI_REQUEST_NULL;
  MPI_Isend(nullptr, 0, MPI_BYTE, rank, kQuestion, talk_, &request);
  MPI_Request_free(&request);
}

void Watchdog::answer_questions() {
  int waiting = 0;
  MPI_Status status;
  while (talk_ != MPI_COMM_NULL &&
         MPI_Iprobe(MPI_ANY_SOURCE, MPI_ANY_TAG, talk_, &waiting, &status) == MPI_SUCCESS &&
         waiting != 0) {
    const int from = status.MPI_SOURCE;
    if (status.MPI_TAG == kGoOn) {
      MPI_Recv(nullptr, 0, MPI_BYTE, from, kGoOn, talk_, MPI_STATUS_IGNORE);
      absolved_ = true;
      continue;
    }
    if (status.MPI_TAG == kAnswer) {
      MPI_Recv(&answers_[from], sizeof(Standing), MPI_BYTE, from, kAnswer, talk_,
               MPI_STATUS_IGNORE);
      continue;
    }
    MPI_Recv(nullptr, 0, MPI_BYTE, from, kQuestion, talk_, MPI_STATUS_IGNORE);
    asked_ = is_collector(world_.rank());
    if (asked_) {
      askers_.push_back(from);
    }
    if (is_collector(from)) {
      const Standing mine = standing();
      MPI_Send(&mine, sizeof mine, MPI_BYTE, from, kAnswer, talk_);
    }
  }
}

// Returns if some rank makes progress, so that this one has to wait for it.
void Watchdog::expire(double waited) {
  if (board_) {
    report_for_host(waited);
    return;
  }
  if (talk_ == MPI_COMM_NULL) {
    log::error(fmt::format("fatal: {} in {}", ending(waited), standing().doing.data()));
    abort_all(static_cast<int>(Exit::kInternal));
  }
  absolved_ = false;
  for (const int collector : {0, world_.size() - 1}) {
    if (collector != world_.rank()) {
      ask(collector);
    }
  }
  if (is_collector(world_.rank())) {
    report(waited);
    return;
  }
  const Timer timer;
  while (timer.seconds() < kEachReports) {
    answer_questions();
    if (absolved_) {
      return;
    }
    sleep_for(kShortNap);
  }
  log::error(fmt::format("fatal: {} in {}; neither rank 0 nor the last rank says why",
                         ending(waited), standing().doing.data()));
  abort_all(static_cast<int>(Exit::kInternal));
}

void Watchdog::report(double waited) {
  answers_.clear();
  for (int rank = 0; rank < world_.size(); ++rank) {
    if (rank != world_.rank()) {
      ask(rank);
    }
  }
  answers_[world_.rank()] = standing();
  const Timer timer;
  const bool first = world_.is_root();
  while (timer.seconds() < (first ? kFirstReports : kLastReports) &&
         !(first && std::ssize(answers_) == world_.size())) {
    answer_questions();
    sleep_for(kShortNap);
  }
  judge(waited);
  for (const int asker : std::exchange(askers_, {})) {
    MPI_Request request = MPI_REQUEST_NULL;
    MPI_Isend(nullptr, 0, MPI_BYTE, asker, kGoOn, talk_, &request);
    MPI_Request_free(&request);
  }
  asked_ = false;
}

// Ends the job, unless a rank that the others may wait for makes progress.
void Watchdog::judge(double waited) {
  const bool makes_progress = std::any_of(answers_.begin(), answers_.end(), [](const auto& answer) {
    return answer.second.makes_progress();
  });
  if (makes_progress) {
    return;
  }
  log::error(fmt::format("fatal: {}\n{}", ending(waited), diagnose(answers_, hosts_)));
  abort_all(static_cast<int>(Exit::kInternal));
}

void Watchdog::report_for_host(double waited) {
  const std::vector<std::uint32_t> before = board_->counts();
  const Timer timer;
  while (timer.seconds() < (board_->is_first() ? kFirstReports : kLastReports)) {
    board_->publish(standing());
    sleep_for(kShortNap);
  }
  answers_ = board_->read(before);
  hosts_.resize(static_cast<std::size_t>(world_.size()));
  for (const std::int32_t rank : board_->ranks()) {
    hosts_[static_cast<std::size_t>(rank)] = host_name();
  }
  judge(waited);
}

std::function<void()> on_loading(Watchdog& watchdog) {
  return [&watchdog] {
    check_stop("loading");
    watchdog.loading();
  };
}

}  // namespace moesaic::comm
