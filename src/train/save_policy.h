#pragma once

#include <cstdint>

#include "base/timer.h"
#include "config/config.h"

namespace moesaic::train {

/// When to save and when to stop, by steps and by the clock. Rank 0's answer counts: ranks vote.
class SavePolicy {
 public:
  SavePolicy(const config::Config& config, std::int64_t last_step);

  /// Whether a checkpoint is due after this step, on this rank's clock.
  bool due(std::int64_t step) const;
  void saved(double seconds);

  /// Whether the next step and a save may no longer fit into run.max_wall: the margin is twice the
  /// longest save, the longest step and a minute.
  bool out_of_time() const;
  void step_took(double seconds);

 private:
  config::Checkpoint config_;
  std::int64_t last_step_;
  double wall_;  // seconds from the start of this object; negative: no limit
  Timer since_start_, since_save_;
  double longest_save_ = 0.0, longest_step_ = 0.0;
};

}  // namespace moesaic::train
