#pragma once

#include <condition_variable>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "base/phase_clock.h"
#include "base/timer.h"

namespace moesaic::train {

/// Ends all ranks (exit 70) if this rank makes no progress for too long, after saying in which step
/// and phase it stands. Every rank has one: in a hang each says where it waits.
class Watchdog {
 public:
  /// timeout: seconds of a step; negative: max(60, 10 x the median step so far), and ten minutes
  /// until the first two steps are done.
  Watchdog(double timeout, const PhaseClock& clock);
  ~Watchdog();
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

  /// A step is done; the next one starts.
  void step_done(std::int64_t step);
  /// Something outside the steps got on, and may now take so many seconds (at least a step's).
  void alive(double seconds);

 private:
  void watch();
  double limit() const;
  [[noreturn]] void expire(double waited);

  const double timeout_;
  const PhaseClock& clock_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool ending_ = false;
  std::int64_t step_ = 0;
  double granted_ = 0.0;  // seconds, until the next step is done
  Timer since_;
  std::vector<double> durations_;
  std::thread thread_;
};

}  // namespace moesaic::train
