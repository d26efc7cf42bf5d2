#pragma once

#include <condition_variable>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "base/phase_clock.h"
#include "base/timer.h"
#include "comm/communicator.h"
#include "comm/ledger.h"

namespace moesaic::comm {

/// Ends all ranks (exit 70) if one of them makes no progress for too long, after rank 0, or the
/// last rank where rank 0 is silent, has said who keeps the others waiting. A thread of each rank
/// watches it; the threads talk over a communicator of their own.
class Watchdog {
 public:
  /// Collective over the world, which must record in a ledger if it has more than one rank.
  /// timeout: seconds for whatever is watched; negative: the limits given below.
  Watchdog(double timeout, const Communicator& world);
  ~Watchdog();
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

  /// A step begins; what was watched before has ended. Limit: max(60, 10 x the median step so far)
  /// seconds, and ten minutes until two steps are done.
  void step(std::int64_t step);
  /// Something else begins or gets on ("loading"); `limit` in seconds.
  void doing(std::string_view what, double limit = kLoading);
  static constexpr double kLoading = 600.0;
  /// From now on messages name this clock's phase; it must live until another one, or none, is set.
  void follow(const PhaseClock* clock);
  /// Collective over the world: the watch ends when all ranks have come here.
  void close();

 private:
  void begin(std::string_view what, std::int64_t step, double limit);
  void watch();
  double limit() const;
  Standing standing() const;
  void stop();

  // Of the watching thread alone.
  [[noreturn]] void expire(double waited);
  void answer_questions();
  void ask(int rank);
  [[noreturn]] void speak(double waited);
  bool is_collector(int rank) const { return rank == 0 || rank == world_.size() - 1; }

  const double timeout_;
  const Communicator& world_;
  MPI_Comm talk_ = MPI_COMM_NULL;   // none: MPI lets one thread alone call it
  std::vector<std::string> hosts_;  // of all ranks, on the collectors
  std::map<int, Standing> answers_;
  bool asked_ = false;

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  bool ending_ = false;
  std::string what_ = "loading";
  std::int64_t step_ = -1;  // negative: it is something else
  double limit_ = kLoading;
  double waited_ = 0.0;  // seconds in which this process ran
  Timer since_;
  std::vector<double> durations_;
  std::size_t steps_done_ = 0;
  const PhaseClock* clock_ = nullptr;
  std::thread thread_;
};

}  // namespace moesaic::comm
