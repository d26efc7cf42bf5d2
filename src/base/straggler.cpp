#include "base/straggler.h"

#include <algorithm>
#include <vector>

namespace moesaic {

std::optional<StragglerWatch::Finding> StragglerWatch::add(std::span<const double> rank_seconds) {
  constexpr double kSlow = 1.5, kStopped = 10.0, kStoppedSeconds = 5.0;
  constexpr int kSteps = 5;
  if (rank_seconds.size() < 2) {
    return {};
  }
  // The lower median: of two ranks, the other one.
  std::vector<double> sorted(rank_seconds.begin(), rank_seconds.end());
  const auto middle = sorted.begin() + static_cast<std::ptrdiff_t>((sorted.size() - 1) / 2);
  std::nth_element(sorted.begin(), middle, sorted.end());
  const double median = *middle;
  const auto slowest = std::max_element(rank_seconds.begin(), rank_seconds.end());
  const auto rank = static_cast<int>(slowest - rank_seconds.begin());
  const bool slow = *slowest > kSlow * median;
  const bool stopped = *slowest > kStopped * median && *slowest > median + kStoppedSeconds;
  if (!slow || rank != rank_) {
    rank_ = rank;
    steps_ = 0;
    reported_ = false;
  }
  steps_ += slow ? 1 : 0;
  if (reported_ || !(stopped || steps_ >= kSteps)) {
    return {};
  }
  reported_ = true;
  return Finding{rank, *slowest, median};
}

}  // namespace moesaic
