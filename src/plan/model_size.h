#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <utility>

#include "config/config.h"
#include "model/parameter/parameters.h"
#include "routing/gate_state.h"

namespace moesaic::plan {

/// Parameters of one class: in the whole model, those that one token meets, and those of these that
/// are weights of products; of the last those that backward passes, and those that are trained.
struct Count {
  std::int64_t total = 0, active = 0, multiplied = 0;
  std::int64_t passed = 0, trained = 0;
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
  Count head;                      // (V, D), none if tied to the embedding
  std::int64_t tensors = 0;        // public ones, of all classes
  std::int64_t trained = 0;        // parameters, of all classes
  std::int64_t layers_passed = 0;  // by backward

  std::array<std::pair<std::string_view, Count>, 8> classes() const;
  Count sum() const;
};

/// Parameters by class of the model of a resolved config. tuning: what is trained.
ModelSize model_size(const config::Config& config, const routing::GateState& gates = {},
                     const model::Tuning& tuning = {});

/// Multiplications and additions for one token: 2 for each active weight of a matrix product, and
/// causal attention over its share of a sequence of `length` tokens. Training adds as much for the
/// gradients of the inputs of what backward reaches, and for those of the weights that are trained.
struct Flop {
  double forward = 0.0, training = 0.0;
};
Flop flop_per_token(const config::Model& model, const ModelSize& size, std::int64_t length);

}  // namespace moesaic::plan
