#pragma once

#include <cstdint>
#include <string>

#include "config/config.h"

namespace moesaic::config {

/// The experts of an MoE layer by number, one letter for each: r regular, s spare, x retired.
/// Spares follow the regular ones at first; what is added later comes behind, and no number is used
/// again.
std::string expert_pool_of(const Model& model, const Router& router, std::int64_t moe_layer);
/// All numbers that experts have or had; the same in every layer.
std::int64_t expert_numbers(const Model& model, const Router& router);
/// Ranks that share out the whole experts of a layer.
std::int64_t expert_ranks(const Parallel& parallel);
/// Experts of one kind in a layer's expert pool.
std::int64_t count_of(const std::string& expert_pool, char kind);

}  // namespace moesaic::config
