#pragma once

#include <condition_variable>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "backend/phase_clock.h"
#include "base/timer.h"
#include "comm/communicator.h"
#include "comm/host_board.h"
#include "comm/ledger.h"

namespace moesaic::comm {

/// Longest time of a step after steps of these lengths, seconds: 10 x their median, and at least
/// ten minutes, since a file server that is replaced by its twin keeps a read waiting for minutes.
double automatic_step_limit(std::vector<double> durations);

/// Ends all ranks (exit 70) if one of them makes no progress for too long, after rank 0, or the
/// last rank where rank 0 is silent, has said who keeps the others waiting. A thread of each rank
/// watches it; the threads talk over a communicator of their own, or, where MPI lets one thread
/// alone call it, look at each other's standing within a host.
class Watchdog {
 public:
  /// Seconds without progress; negative: automatic. As the keys run.*_timeout.
  struct Limits {
    double step = -1.0;  // steps and iterations
    double load = -1.0;
    double save = -1.0;
  };

  /// Collective over the world, which must record in a ledger if it has more than one rank.
  Watchdog(const Limits& limits, const Communicator& world);
  ~Watchdog();
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

  // Something begins, or has made progress; what was watched before has ended.
  /// A step. Automatic limit: 10 x the median step so far, at least ten minutes.
  void step(std::int64_t step);
  /// Work like a step whose length differs much ("evaluation"). Automatic limit: ten minutes.
  void iteration(std::string_view what);
  /// Automatic limit: ten minutes.
  void loading();
  /// Automatic limit: an hour.
  void saving();
  /// From now on messages name this clock's phase; it must live until another one, or none, is set.
  void follow(const PhaseClock* clock);
  /// Collective over the world: the watch ends when all ranks have come here.
  void close();

 private:
  enum class Kind { kStep, kIteration, kLoad, kSave };
  void begin(Kind kind, std::string_view what, std::int64_t step = -1);
  void watch();
  double limit() const;
  std::string ending(double waited) const;
  Standing standing() const;
  void stop();

  // Only the watching thread calls these.
  void check_for_trouble();
  void expire(double waited);
  void answer_questions();
  void ask(int rank);
  void report(double waited);
  void report_for_host(double waited);
  void judge(double waited);
  bool is_collector(int rank) const { return rank == 0 || rank == world_.size() - 1; }

  const Limits limits_;
  const Communicator& world_;
  // One of the two, unless there is one rank.
  MPI_Comm talk_ = MPI_COMM_NULL;
  std::optional<HostBoard> board_;
  std::vector<std::string> hosts_;  // of all ranks, on the collectors
  std::map<int, Standing> answers_;
  bool asked_ = false;
  bool absolved_ = false;    // a collector has said that some rank makes progress
  std::vector<int> askers_;  // of a collector

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  bool ending_ = false;
  Kind kind_ = Kind::kLoad;
  std::string what_ = "loading";
  std::int64_t step_ = -1;  // negative: it is something else
  double waited_ = 0.0;     // seconds in which this process ran
  Timer since_;
  std::vector<double> durations_;
  std::size_t steps_done_ = 0;
  const PhaseClock* clock_ = nullptr;
  std::thread thread_;
};

/// To be called while tensors are read: a sign of life, and the place to stop (kTerminated). The
/// watchdog must outlive it.
std::function<void()> on_loading(Watchdog& watchdog);

}  // namespace moesaic::comm
