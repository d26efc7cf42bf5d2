#include "train/spike_watch.h"

#include <algorithm>
#include <utility>

namespace moesaic::train {

SpikeWatch::SpikeWatch(double factor, std::vector<double> losses)
    : factor_(factor), losses_(std::move(losses)) {
  const auto kept = std::min(losses_.size(), kWindow);
  losses_.erase(losses_.begin(), losses_.end() - static_cast<std::ptrdiff_t>(kept));
}

std::optional<double> SpikeWatch::add(double loss) {
  if (losses_.size() < kWindow) {
    losses_.push_back(loss);
    return std::nullopt;
  }
  std::vector<double> sorted = losses_;
  std::sort(sorted.begin(), sorted.end());
  const double median = (sorted[kWindow / 2 - 1] + sorted[kWindow / 2]) / 2.0;
  losses_.erase(losses_.begin());
  losses_.push_back(loss);
  return factor_ > 0.0 && loss > factor_ * median ? std::optional(median) : std::nullopt;
}

}  // namespace moesaic::train
