#pragma once

#include <cstdint>

#include "base/timer.h"
#include "config/config.h"

namespace moesaic::train {

/// When to save and when to stop, by steps and by the clock. Rank 0's answer counts: ranks vote.
class SavePolicy {
 public:
  /// Seconds of a save until this process has made one: known from an earlier job (0: not), else
  /// expected, but then no more than a quarter of run.max_wall.
  SavePolicy(const config::Config& config, std::int64_t last_step, double known, double expected);

  /// Whether a checkpoint is due after this step, on this rank's clock. Where no batch system runs
  /// the job, the first one by the clock is due after a minute: nobody warns it before it is
  /// killed.
  bool due(std::int64_t step) const;
  double minutes() const;  // from one save to the next by the clock, or to the first; 0: never
  void saved(double seconds);
  void failed() { since_save_.restart(); }
  double measured_save() const { return measured_ || known_ ? longest_save_ : 0.0; }  // seconds

  /// Whether the next step and a save may no longer fit into run.max_wall: the margin is twice the
  /// longest save, the longest step and a minute.
  bool out_of_time() const;
  void step_took(double seconds);

 private:
  config::Checkpoint config_;
  std::int64_t last_step_;
  double wall_;  // seconds from the start of this object; negative: no limit
  Timer since_start_, since_save_;
  double first_minutes_;   // until the first save by the clock
  bool known_;             // longest_save_ was measured by an earlier job
  bool measured_ = false;  // longest_save_ is of this process
  double longest_save_, longest_step_ = 0.0;
};

/// Seconds that a save of so many bytes may take, for want of a measured one.
double expected_save_seconds(double bytes, int ranks);

}  // namespace moesaic::train
