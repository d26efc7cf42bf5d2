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

// All ranks of cp have the same gates, and so resolve together where these are many.
void MoeStats::count_gate(const GateEvent& event) {
  constexpr std::size_t kMost = std::size_t{32} << 20U;
  if (pending_bytes_ > kMost) {
    resolve(event.device);
  }
  pending_bytes_ += event.choice.bytes();
  pending_.push_back({.layer = event.moe_layer,
                      .gate = Gate{.regular = event.regular,
                                   .shares = event.routed.shares,
                                   .sums = event.routed.sums,
                                   .load = event.load,
                                   .segment = {event.segment.begin(), event.segment.end()}},
                      .choice = event.choice});
}

void MoeStats::count_choices(const RouteEvent& event) {
  if (event.choice.numel() == 0 || !event.device.counts) {
    return;
  }
  Route route{.counts = event.counts,
              .plan = {},
              .open = {},
              .slots = event.rule.slots,
              .task = {event.batch.task.begin(), event.batch.task.end()}};
  for (const ExpertState state : event.expert_pool.state) {
    route.open.push_back(state == ExpertState::kRegular);
  }
  if (event.plan != nullptr) {
    route.plan = *event.plan;
  }
  pending_.push_back({.layer = event.moe_layer, .route = std::move(route), .choice = event.choice});
}

void MoeStats::resolve(const Device& device) {
  HostCopies copies;
  for (Pending& pending : pending_) {
    pending.first = copies.add(pending.choice);
    if (pending.gate) {
      copies.add(pending.gate->shares);
      copies.add(pending.gate->sums);
      if (pending.gate->load.defined()) {
        copies.add(pending.gate->load);
      }
    } else if (!pending.route->plan) {
      copies.add(pending.route->counts);
    }
  }
  if (!pending_.empty()) {
    copies.fetch(device.backend);
  }
  add_gates(copies, device.cp.group());
  for (const Pending& pending : pending_) {
    if (pending.route) {
      add_route(copies, pending);
    }
  }
  pending_.clear();
  pending_bytes_ = 0;
}

// How strongly the auxiliary loss wants to leave each expert. [S, E]
std::vector<double> MoeStats::load_fraction(const HostCopies& copies,
                                            const Pending& pending) const {
  const Gate& gate = *pending.gate;
  const auto experts = static_cast<std::size_t>(gate.shares.dim(2));
  const auto regular = static_cast<double>(gate.regular);
  const std::size_t segments =
      gate.segment.empty() ? 1 : static_cast<std::size_t>(gate.segment.back()) + 1;
  std::vector<double> fraction(segments * experts, 0.0);
  if (gate.load.defined()) {
    for (std::size_t e = 0; const float share : copies.at<float>(pending.first + 3)) {
      fraction[e++] = regular * static_cast<double>(share);
    }
    return fraction;
  }
  std::vector<double> choices(segments, 0.0);
  const std::span<const std::int32_t> chosen = copies.at<std::int32_t>(pending.first);
  const auto k = static_cast<std::size_t>(pending.choice.dim(1));
  for (std::size_t i = 0; i < chosen.size(); ++i) {
    const std::size_t s = gate.segment.empty() ? 0 : static_cast<std::size_t>(gate.segment[i / k]);
    if (chosen[i] >= 0) {
      fraction[s * experts + static_cast<std::size_t>(chosen[i])] += 1.0;
      choices[s] += 1.0;
    }
  }
  for (std::size_t i = 0; i < fraction.size(); ++i) {
    fraction[i] *= fraction[i] > 0.0 ? regular / choices[i / experts] : 0.0;
  }
  return fraction;
}

// Sums over the own tokens; those of all ranks of cp together, rounded once as one rank's are.
void MoeStats::add_gates(const HostCopies& copies, const comm::Communicator& cp) {
  std::vector<double> totals;
  for (const Pending& pending : pending_) {
    for (std::size_t tensor = 1; pending.gate && tensor < 3; ++tensor) {
      const std::span<const float> parts = copies.at<float>(pending.first + tensor);
      for (std::size_t i = 0; i < parts.size() / 2; ++i) {
        const float left = cp.size() > 1 ? parts[parts.size() / 2 + i] : 0.0F;
        totals.push_back(static_cast<double>(parts[i]) + static_cast<double>(left));
      }
    }
  }
  cp.all_reduce(std::span(totals), comm::Reduce::kSum);
  if (cp.rank() > 0) {
    return;
  }
  auto total = totals.begin();
  const auto next = [&] { return static_cast<double>(static_cast<float>(*total++)); };
  for (const Pending& pending : pending_) {
    if (pending.gate) {
      const std::span<double> of_layer = sums(pending.layer);
      for (const double fraction : load_fraction(copies, pending)) {
        of_layer[0] += fraction * next();
      }
      of_layer[1] += next();
      of_layer[2] += next();
    }
  }
}

// The choices of the whole micro-batch.
void MoeStats::add_route(const HostCopies& copies, const Pending& pending) {
  const Route& route = *pending.route;
  const std::int64_t layer = pending.layer;
  const std::size_t experts = route.open.size();
  std::vector<std::int64_t> counts(4 * experts, 0);  // chosen, dropped, rows, rerouted
  if (route.plan) {
    std::size_t begin = 0;
    for (const auto* const list :
         {&route.plan->chosen, &route.plan->dropped, &route.plan->rows, &route.plan->rerouted}) {
      std::copy(list->begin(), list->end(),
                counts.begin() + static_cast<std::ptrdiff_t>(begin * experts));
      ++begin;
    }
  } else {
    const auto three = copies.at<std::int32_t>(pending.first + 1);
    std::copy(three.begin(), three.end(), counts.begin());
  }
  const auto rows = std::span(counts).subspan(2 * experts, experts);
  const std::int64_t largest = *std::max_element(rows.begin(), rows.end());
  for (std::size_t e = 0; e < experts; ++e) {
    const bool open = route.open[e] || rows[e] > 0;
    chosen(layer)[e] += static_cast<double>(counts[e]);
    dropped(layer)[e] += static_cast<double>(counts[experts + e]);
    processed(layer)[e] += static_cast<double>(rows[e]);
    rerouted(layer)[e] += static_cast<double>(counts[3 * experts + e]);
    slots(layer)[e] += open ? static_cast<double>(route.slots > 0 ? route.slots : largest) : 0.0;
  }
  add_tasks(copies.at<std::int32_t>(pending.first), pending);
}

void MoeStats::add_tasks(std::span<const std::int32_t> chosen, const Pending& pending) {
  const std::span<double> chosen_by_task = by_task(pending.layer);
  const std::span<double> counts_by_task = choices_by_task(pending.layer);
  const auto experts = static_cast<std::size_t>(experts_);
  const auto k = static_cast<std::size_t>(pending.choice.dim(1));
  for (std::size_t begin = 0; begin < chosen.size(); begin += k) {
    const std::size_t task = pending.route->task[begin / k];
    std::size_t made = 0;
    for (const std::int32_t expert : chosen.subspan(begin, k)) {
      if (expert >= 0) {
        chosen_by_task[task * experts + static_cast<std::size_t>(expert)] += 1.0;
        ++made;
      }
    }
    counts_by_task[task * static_cast<std::size_t>(top_k_) + made - 1] += 1.0;
  }
}

void MoeStats::clear() {
  std::fill(values_.begin(), values_.end(), 0.0);
  pending_.clear();
  pending_bytes_ = 0;
}

}  // namespace moesaic::model
