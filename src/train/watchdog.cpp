#include "train/watchdog.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "base/error.h"
#include "base/log.h"
#include "comm/guard.h"

namespace moesaic::train {

Watchdog::Watchdog(double timeout, const PhaseClock& clock)
    : timeout_(timeout), clock_(clock), thread_([this] { watch(); }) {}

Watchdog::~Watchdog() {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void Watchdog::step_done(std::int64_t step) {
  const std::lock_guard lock(mutex_);
  constexpr std::size_t kKept = 101;
  if (durations_.size() < kKept) {
    durations_.push_back(since_.seconds());
  } else {
    durations_[static_cast<std::size_t>(step) % kKept] = since_.seconds();
  }
  step_ = step;
  granted_ = 0.0;
  since_.restart();
}

void Watchdog::alive(double seconds) {
  const std::lock_guard lock(mutex_);
  granted_ = seconds;
  since_.restart();
}

double Watchdog::limit() const {
  if (timeout_ >= 0.0) {
    return timeout_;
  }
  if (durations_.size() < 2) {
    return 600.0;
  }
  std::vector<double> sorted = durations_;
  const auto middle = sorted.begin() + static_cast<std::ptrdiff_t>(sorted.size() / 2);
  std::nth_element(sorted.begin(), middle, sorted.end());
  return std::max(60.0, 10.0 * *middle);
}

void Watchdog::watch() {
  std::unique_lock lock(mutex_);
  while (!ending_) {
    const double waited = since_.seconds();
    const double left = std::max(limit(), granted_) - waited;
    if (left <= 0.0) {
      lock.unlock();
      expire(waited);
    }
    // Short naps, as a step that ends moves the limit.
    changed_.wait_for(lock, std::chrono::duration<double>(std::clamp(left, 0.01, 1.0)));
  }
}

void Watchdog::expire(double waited) {
  log::error(
      fmt::format("fatal: step {} has taken {:.0f} s, phase {}; run.step_timeout ends the job",
                  step_ + 1, waited, kPhaseNames[static_cast<std::size_t>(clock_.phase())]));
  // The other ranks' watchdogs expire at about the same time and have their say before the end.
  std::this_thread::sleep_for(std::chrono::seconds(2));
  comm::abort_all(static_cast<int>(Exit::kInternal));
}

}  // namespace moesaic::train
