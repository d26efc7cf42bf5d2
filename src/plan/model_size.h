#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <utility>

#include "config/config.h"

namespace moesaic::plan {

/// Parameters of one class: in the whole model, and those that one token meets.
struct Count {
  std::int64_t total = 0, active = 0;
};

/// Parameters by class. The embedding's are all counted as active.
struct ModelSize {
  Count embedding;  // (V, D)
  Count attention;  // q, k, v and o projections
  Count dense_ff;   // gate, up and down of the dense layers
  Count router;
  Count experts;         // gate, up and down of the routed experts
  Count shared_experts;  // the same of those that every token passes
  Count norms;
  Count head;  // (V, D), none if tied to the embedding

  std::array<std::pair<std::string_view, Count>, 8> classes() const;
  Count sum() const;
};

/// Parameters of the gate of one MoE layer.
struct GateSize {
  std::int64_t products = 0;  // (E, D), or keys (E, d) and query (d, D)
  std::int64_t tasks = 0;     // (tasks, E)
  std::int64_t state = 0;     // vectors (E) that no gradient trains: bias, load of the step before
};
GateSize gate_size(const config::Config& config);

/// Of a resolved config.
ModelSize model_size(const config::Config& config);

/// Layers with experts.
std::int64_t moe_layers(const config::Model& model);

/// Multiplications and additions for one token: 2 for each active weight of a matrix product, and
/// causal attention over its share of a sequence of `length` tokens.
struct Flop {
  double forward = 0.0, training = 0.0;
};
Flop flop_per_token(const config::Config& config, std::int64_t length);

}  // namespace moesaic::plan
