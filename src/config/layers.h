#pragma once

#include <cstdint>
#include <vector>

#include "config/config.h"

namespace moesaic::config {

/// Whether a layer has experts, rather than one dense feed-forward part.
bool has_experts(const Model& model, std::int64_t layer);
/// The layers with experts, ascending.
std::vector<std::int64_t> moe_layers(const Model& model);

/// Whether attention is latent (DeepSeek-V2, section 2.1), rather than grouped-query.
bool is_latent(const Model& model);
/// Whether a layer sees model.sliding_window keys at most.
bool is_windowed(const Model& model, std::int64_t layer);

/// Widths of one head of queries and keys, and of values.
std::int64_t key_width(const Model& model);
std::int64_t value_width(const Model& model);
/// Hidden width of the shared experts together.
std::int64_t shared_width(const Model& model);

/// Ranks that share out the whole experts of a layer.
std::int64_t expert_ranks(const Parallel& parallel);

}  // namespace moesaic::config
