#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "backend/backend.h"
#include "data/micro_batch.h"
#include "routing/dispatch_plan.h"
#include "routing/expert_pool.h"

namespace moesaic::model {

struct Device;
struct Parameter;

// What layers tell their observers. Everything in an event is only lent for the time of the call.
// T tokens of the micro-batch, of which this rank routes t; E experts, K choices of each token.

/// Router: it has scored and chosen for this rank's own rows.
struct GateEvent {
  const Device& device;
  std::int64_t moe_layer;                 // among the MoE layers
  std::int64_t regular;                   // experts
  const RouteTensors& routed;             // of the t own rows
  const Tensor& choice;                   // (T, K) of all rows
  std::span<const std::int32_t> segment;  // [T] whose loads count apart, of S; empty: one
  const Tensor& load;  // (E) fp32, the share of each expert that counts instead; undefined: none
};

/// Moe: the choices of the whole micro-batch have their experts, the same on every rank of tp and
/// cp.
struct RouteEvent {
  const Device& device;
  std::int64_t moe_layer;
  const data::MicroBatch& batch;
  const routing::ExpertPool& expert_pool;
  const Tensor& choice;               // (T, K) int32 by the router, best first; -1: none
  const Tensor& weight;               // (T, K) fp32 of the experts that compute
  const Tensor& counts;               // (3, E) int32, as Backend::drop_overflow has them
  const routing::DispatchPlan* plan;  // where choices may be rerouted; else nullptr
  routing::SlotRule rule;
};

/// multiply: rows [offsets[g], offsets[g + 1]) of x (R, K) are about to meet group g of a weight.
struct LinearEvent {
  const Device& device;
  const Tensor& x;
  const Tensor& offsets;    // as Backend::grouped_matmul has them
  const Parameter& weight;  // (N, K), or (G, N, K)
};

/// Moe: this rank's experts have made y (R, D) of x (R, D), rows grouped by expert.
struct ExpertOutputEvent {
  const Device& device;
  std::int64_t moe_layer;
  const Tensor& x;
  const Tensor& offsets;  // (local experts + 1)
  const Tensor& y;
  bool terms;  // y is this rank's term of a sum over tp, and each rank has the same rows
};

/// Transformer: backward of one micro-batch adds no more to the gradients of a part.
struct PartDoneEvent {
  int part;  // of the parameters (Parameters::part)
};

/// Someone who looks on while layers compute: a function for each event that it wants. What stands
/// behind it must outlive the context. Every rank has the same observers, as some are collective.
struct Observer {
  std::function<void(const GateEvent&)> on_gate = {};
  std::function<void(const RouteEvent&)> on_route = {};
  std::function<void(const LinearEvent&)> on_linear = {};
  std::function<void(const ExpertOutputEvent&)> on_expert_output = {};
  std::function<void(const PartDoneEvent&)> on_part_done = {};
};

/// Told in this order.
using Observers = std::vector<Observer>;

}  // namespace moesaic::model
