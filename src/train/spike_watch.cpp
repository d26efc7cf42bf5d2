#include "train/spike_watch.h"

#include <algorithm>

namespace moesaic::train {

std::optional<double> SpikeWatch::add(double loss) {
  if (losses_.size() < kWindow) {
    losses_.push_back(loss);
    return std::nullopt;
  }
  std::vector<double> sorted = losses_;
  std::sort(sorted.begin(), sorted.end());
  const double median = (sorted[kWindow / 2 - 1] + sorted[kWindow / 2]) / 2.0;
  losses_[next_] = loss;
  next_ = (next_ + 1) % kWindow;
  return factor_ > 0.0 && loss > factor_ * median ? std::optional(median) : std::nullopt;
}

}  // namespace moesaic::train
