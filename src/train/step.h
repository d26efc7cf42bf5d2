#pragma once

#include <span>
#include <vector>

#include "engine/instance.h"

namespace moesaic::train {

void zero_gradients(engine::Instance& instance);

/// Gradients of a step's micro-batches (those of this replica): -target_scale sum(log p) +
/// auxiliary losses, summed over the ranks that hold the same parameters; each bucket of them while
/// the rest of backward runs. Collective over the mesh: every rank has as many micro-batches, some
/// perhaps empty. Returns the log-probability of each target of each (0 where not counted); on all
/// but the last stage they are empty.
std::vector<std::vector<float>> forward_backward(engine::Instance& instance,
                                                 const model::Context& ctx,
                                                 std::span<const data::MicroBatch> batches,
                                                 double target_scale);

}  // namespace moesaic::train
