#include "model/moe_stats.h"

#include <algorithm>

namespace moesaic::model {
namespace {

constexpr std::int64_t kCounts = 5;

}  // namespace

MoeStats::MoeStats(std::int64_t layers, std::int64_t experts, std::int64_t tasks,
                   std::int64_t top_k)
    : layers_(layers), experts_(experts), tasks_(tasks), top_k_(top_k) {
  values_.resize(static_cast<std::size_t>(layers * width()));
}

std::int64_t MoeStats::width() const {
  return kCounts * experts_ + tasks_ * (experts_ + top_k_) + 3;
}

std::span<double> MoeStats::part(std::int64_t which, std::int64_t layer) {
  return {values_.data() + layer * width() + which * experts_, static_cast<std::size_t>(experts_)};
}

std::span<double> MoeStats::by_task(std::int64_t layer) {
  return {part(kCounts, layer).data(), static_cast<std::size_t>(tasks_ * experts_)};
}

std::span<double> MoeStats::choices_by_task(std::int64_t layer) {
  return {by_task(layer).data() + tasks_ * experts_, static_cast<std::size_t>(tasks_ * top_k_)};
}

std::span<double> MoeStats::sums(std::int64_t layer) {
  return {choices_by_task(layer).data() + tasks_ * top_k_, 3};
}

void MoeStats::clear() { std::fill(values_.begin(), values_.end(), 0.0); }

}  // namespace moesaic::model
