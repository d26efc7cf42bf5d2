#include "model/moe_stats.h"

#include <algorithm>

#include "backend/transfer.h"
#include "model/context.h"

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

Observer MoeStats::observer() {
  return {.on_gate = [this](const GateEvent& event) { count_gate(event); },
          .on_route = [this](const RouteEvent& event) { count_choices(event); }};
}

// Sums over the own tokens; those of all ranks of cp together, rounded once as one rank's are.
void MoeStats::count_gate(const GateEvent& event) {
  const model::Device& device = event.device;
  const comm::Communicator& cp = device.cp.group();
  std::vector<double> totals;
  for (const Tensor* const tensor : {&event.routed.shares, &event.routed.sums}) {
    const std::vector<float> parts = to_host_f32(device.backend, *tensor);
    for (std::size_t i = 0; i < parts.size() / 2; ++i) {
      const float left = cp.size() > 1 ? parts[parts.size() / 2 + i] : 0.0F;
      totals.push_back(static_cast<double>(parts[i]) + static_cast<double>(left));
    }
  }
  cp.all_reduce(std::span(totals), comm::Reduce::kSum);
  if (cp.rank() > 0) {
    return;
  }
  const auto rounded = [&](std::size_t i) {
    return static_cast<double>(static_cast<float>(totals[i]));
  };
  const std::span<double> of_layer = sums(event.moe_layer);
  const std::size_t shares = event.load_fraction.size();
  for (std::size_t i = 0; i < shares; ++i) {
    of_layer[0] += event.load_fraction[i] * rounded(i);
  }
  of_layer[1] += rounded(shares);
  of_layer[2] += rounded(shares + 1);
}

// The choices of the whole micro-batch.
void MoeStats::count_choices(const RouteEvent& event) {
  if (event.choice.empty() || !event.device.counts) {
    return;
  }
  const routing::DispatchPlan& plan = event.plan;
  const std::int64_t layer = event.moe_layer;
  const std::int64_t largest = *std::max_element(plan.rows.begin(), plan.rows.end());
  for (std::size_t e = 0; e < plan.rows.size(); ++e) {
    const bool open = event.expert_pool.state[e] == ExpertState::kRegular || plan.rows[e] > 0;
    chosen(layer)[e] += static_cast<double>(plan.chosen[e]);
    dropped(layer)[e] += static_cast<double>(plan.dropped[e]);
    rerouted(layer)[e] += static_cast<double>(plan.rerouted[e]);
    processed(layer)[e] += static_cast<double>(plan.rows[e]);
    slots(layer)[e] += open ? static_cast<double>(event.slots > 0 ? event.slots : largest) : 0.0;
  }
  count_tasks(event);
}

void MoeStats::count_tasks(const RouteEvent& event) {
  const std::span<double> chosen_by_task = by_task(event.moe_layer);
  const std::span<double> counts_by_task = choices_by_task(event.moe_layer);
  const auto experts = static_cast<std::size_t>(event.expert_pool.size());
  const auto k = static_cast<std::size_t>(event.plan.top_k);
  for (std::size_t begin = 0; begin < event.choice.size(); begin += k) {
    const std::size_t task = event.batch.task[begin / k];
    std::size_t made = 0;
    for (const std::int32_t expert : event.choice.subspan(begin, k)) {
      if (expert >= 0) {
        chosen_by_task[task * experts + static_cast<std::size_t>(expert)] += 1.0;
        ++made;
      }
    }
    counts_by_task[task * static_cast<std::size_t>(top_k_) + made - 1] += 1.0;
  }
}

void MoeStats::clear() { std::fill(values_.begin(), values_.end(), 0.0); }

}  // namespace moesaic::model
