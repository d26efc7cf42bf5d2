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
  Count attention;  // its projections, with biases, norms and sinks
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

/// Parameters of one attention layer, by what they are split with over tp.
struct AttentionSize {
  std::int64_t by_head = 0;       // weights of products for one query head
  std::int64_t by_kv_head = 0;    // and for one key and value head
  std::int64_t shared = 0;        // those of the latent vectors, which all heads share
  std::int64_t head_vectors = 0;  // elements of biases, norms and sinks for one query head
  std::int64_t kv_head_vectors = 0;
  std::int64_t shared_vectors = 0;
  std::int64_t output_bias = 0;

  std::int64_t products(const config::Model& model) const;
  std::int64_t vectors(const config::Model& model) const;
};
AttentionSize attention_size(const config::Model& model);

/// Weights and biases of one routed expert.
std::int64_t expert_size(const config::Model& model);

/// Parameters by class of the model of a resolved config.
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
