#pragma once

#include <vector>

#include "model/instance.h"

namespace moesaic::train {

void zero_gradients(model::Instance& instance);

/// Adds one micro-batch's gradients of: -target_scale sum(log p) + auxiliary losses. Collective
/// over ep. Returns the log-probability of each target (0 where not counted).
std::vector<float> forward_backward(model::Instance& instance, model::Context& ctx,
                                    const model::MicroBatch& batch, double target_scale);

/// Sums the gradients over the ranks that hold the same parameters: experts over dp, the rest over
/// dp x ep. Collective.
void reduce_gradients(model::Instance& instance);

}  // namespace moesaic::train
