#include "model/dispatch_plan.h"

#include <algorithm>
#include <numeric>

#include "base/error.h"

namespace moesaic::model {
namespace {

// Keeps the `capacity` choices of the largest weight, in their order.
void drop_overflow(std::vector<std::size_t>& choices, std::span<const float> weight,
                   std::size_t capacity) {
  std::vector<std::size_t> best = choices;
  std::nth_element(best.begin(), best.begin() + static_cast<std::ptrdiff_t>(capacity), best.end(),
                   [&](std::size_t a, std::size_t b) {
                     return weight[a] != weight[b] ? weight[a] > weight[b] : a < b;
                   });
  best.resize(capacity);
  std::sort(best.begin(), best.end());
  choices = std::move(best);
}

}  // namespace

DispatchPlan plan_dispatch(std::span<const std::int32_t> choice, std::span<const float> weight,
                           std::int64_t top_k, std::int64_t experts, std::int64_t capacity) {
  require(choice.size() == weight.size(), "each choice needs a weight");
  DispatchPlan plan;
  plan.position.assign(choice.size(), -1);
  plan.chosen.assign(static_cast<std::size_t>(experts), 0);
  std::vector<std::vector<std::size_t>> of_expert(static_cast<std::size_t>(experts));
  for (std::size_t i = 0; i < choice.size(); ++i) {
    require(choice[i] >= 0 && choice[i] < experts, "choice of an expert that does not exist");
    of_expert[static_cast<std::size_t>(choice[i])].push_back(i);
  }
  for (std::size_t e = 0; e < of_expert.size(); ++e) {
    std::vector<std::size_t>& choices = of_expert[e];
    plan.chosen[e] = std::ssize(choices);
    if (capacity > 0 && std::ssize(choices) > capacity) {
      drop_overflow(choices, weight, static_cast<std::size_t>(capacity));
    }
    for (const std::size_t i : choices) {
      plan.position[i] = static_cast<std::int32_t>(plan.source.size());
      plan.source.push_back(static_cast<std::int32_t>(i / static_cast<std::size_t>(top_k)));
    }
    plan.kept.push_back(std::ssize(choices));
  }
  return plan;
}

DispatchPlan part_of(const DispatchPlan& plan, std::int64_t top_k, std::int64_t begin,
                     std::int64_t count) {
  DispatchPlan part;
  part.chosen = plan.chosen;
  std::vector<std::int32_t> new_row(plan.source.size(), -1);
  std::size_t row = 0;
  for (const std::int64_t kept : plan.kept) {
    const std::int64_t before = std::ssize(part.source);
    for (const std::size_t end = row + static_cast<std::size_t>(kept); row < end; ++row) {
      const std::int64_t token = plan.source[row] - begin;
      if (token >= 0 && token < count) {
        new_row[row] = static_cast<std::int32_t>(part.source.size());
        part.source.push_back(static_cast<std::int32_t>(token));
      }
    }
    part.kept.push_back(std::ssize(part.source) - before);
  }
  for (std::int64_t i = begin * top_k; i < (begin + count) * top_k; ++i) {
    const std::int32_t old = plan.position[static_cast<std::size_t>(i)];
    part.position.push_back(old < 0 ? -1 : new_row[static_cast<std::size_t>(old)]);
  }
  return part;
}

}  // namespace moesaic::model
