#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "config/config.h"

namespace moesaic::routing {

/// What a checkpoint says of its gates beside their config, and the shapes of their parameters
/// follow from. Empty: as a new model of the config begins.
struct GateState {
  /// The experts of each MoE layer by number, a letter for each: r regular, s spare, x retired.
  /// Spares follow the regular ones at first; what is added later comes behind, and no number is
  /// used again.
  std::vector<std::string> pools = {};
  /// Their measured loads, where parallel.placement asks for them. [MoE layer][E]
  std::vector<std::vector<float>> loads = {};
  /// The tasks that a task gate has weights for, in their order.
  std::vector<std::string> tasks = {};
};

/// The letters of one MoE layer.
std::string expert_pool_of(const config::Model& model, const config::Router& router,
                           const GateState& gates, std::int64_t moe_layer);
/// All numbers that experts have or had; the same in every layer.
std::int64_t expert_numbers(const config::Model& model, const config::Router& router,
                            const GateState& gates);
/// Experts of one kind in a layer's expert pool.
std::int64_t count_of(const std::string& expert_pool, char kind);

}  // namespace moesaic::routing
