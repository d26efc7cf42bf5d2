#pragma once

#include <span>
#include <vector>

#include "engine/instance.h"
#include "train/objective.h"

namespace moesaic::train {

void zero_gradients(engine::Instance& instance);

/// What the micro-batches of this replica say; nothing but on the last stage.
struct StepOutcome {
  std::vector<std::vector<float>> logprob;  // of each, of each row; 0 where not counted
  // Sums over targets; every rank of tp has the same but for entropy, of which each has a term.
  double loss = 0.0;     // weight (-log p), before it is divided
  double entropy = 0.0;  // nats
  std::int64_t correct = 0;
};

/// Gradients of a step's micro-batches (those of this replica): the objective, whose sizes over the
/// global batch are `size`, + auxiliary losses, summed over the ranks that hold the same
/// parameters; each bucket of them while the rest of backward runs. Collective over the mesh: every
/// rank has as many micro-batches, some perhaps empty.
StepOutcome forward_backward(engine::Instance& instance, const model::Context& ctx,
                             std::span<const data::MicroBatch> batches, const Objective& objective,
                             double size);

}  // namespace moesaic::train
