#include "train/save_policy.h"

#include <algorithm>
#include <cstdlib>

#include "config/wall_time.h"

namespace moesaic::train {

SavePolicy::SavePolicy(const config::Config& config, std::int64_t last_step, double known,
                       double expected)
    : config_(config.checkpoint),
      last_step_(last_step),
      wall_(config::wall_seconds(config.run)),
      first_minutes_(std::getenv("SLURM_JOB_ID") == nullptr ? std::min(1.0, config_.every_minutes)
                                                            : config_.every_minutes),
      known_(known > 0.0),
      longest_save_(known_         ? known
                    : wall_ >= 0.0 ? std::min(expected, wall_ / 4.0)
                                   : expected) {}

bool SavePolicy::due(std::int64_t step) const {
  if (config_.dir.empty()) {
    return false;
  }
  const bool by_step = config_.every > 0 && step % config_.every == 0;
  const bool by_time = minutes() > 0.0 && since_save_.seconds() >= 60.0 * minutes();
  return step >= last_step_ || by_step || by_time;
}

double SavePolicy::minutes() const { return measured_ ? config_.every_minutes : first_minutes_; }

void SavePolicy::saved(double seconds) {
  longest_save_ = measured_ ? std::max(longest_save_, seconds) : seconds;
  measured_ = true;
  since_save_.restart();
}

bool SavePolicy::out_of_time() const {
  const double margin = 2.0 * longest_save_ + longest_step_ + 60.0;
  return wall_ >= 0.0 && since_start_.seconds() + margin >= wall_;
}

void SavePolicy::step_took(double seconds) { longest_step_ = std::max(longest_step_, seconds); }

double expected_save_seconds(double bytes, int ranks) {
  constexpr double kOfRank = 100e6, kOfAll = 2e9;  // bytes/s, of slow storage
  return bytes / std::min(kOfAll, kOfRank * ranks);
}

}  // namespace moesaic::train
