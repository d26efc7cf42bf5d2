#include "train/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace moesaic::train {

double learning_rate(const config::Train& config, std::int64_t step) {
  if (step <= config.warmup) {
    return config.lr * static_cast<double>(step) / static_cast<double>(config.warmup);
  }
  const double span =
      static_cast<double>(std::max<std::int64_t>(1, config.decay_steps - config.warmup));
  const double done = std::min(1.0, static_cast<double>(step - config.warmup) / span);
  const double range = config.lr - config.min_lr;
  switch (config.schedule) {
    case config::Schedule::kCosine:
      return config.min_lr + range * 0.5 * (1.0 + std::cos(std::numbers::pi * done));
    case config::Schedule::kLinear:
      return config.min_lr + range * (1.0 - done);
    case config::Schedule::kConstant:
      return config.lr;
    case config::Schedule::kWsd: {
      constexpr double kDecayShare = 0.2;
      return config.min_lr + range * std::min(1.0, (1.0 - done) / kDecayShare);
    }
  }
  return config.lr;
}

}  // namespace moesaic::train
