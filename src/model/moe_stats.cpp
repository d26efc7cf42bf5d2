#include "model/moe_stats.h"

#include <algorithm>

namespace moesaic::model {

MoeStats::MoeStats(std::int64_t layers, std::int64_t experts, std::int64_t tasks)
    : layers_(layers),
      experts_(experts),
      tasks_(tasks),
      values_(static_cast<std::size_t>(layers * (4 * experts + tasks * experts + 3)), 0.0) {}

std::span<double> MoeStats::part(std::int64_t which, std::int64_t layer) {
  const std::int64_t width = 4 * experts_ + tasks_ * experts_ + 3;
  return std::span(values_).subspan(static_cast<std::size_t>(layer * width + which * experts_),
                                    static_cast<std::size_t>(experts_));
}

std::span<double> MoeStats::by_task(std::int64_t layer) {
  return {part(4, layer).data(), static_cast<std::size_t>(tasks_ * experts_)};
}

std::span<double> MoeStats::sums(std::int64_t layer) {
  return {part(4, layer).data() + tasks_ * experts_, 3};
}

void MoeStats::clear() { std::fill(values_.begin(), values_.end(), 0.0); }

}  // namespace moesaic::model
