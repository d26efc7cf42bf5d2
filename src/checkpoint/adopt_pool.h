#pragma once

#include <vector>

#include "checkpoint/expert_pool_change.h"
#include "checkpoint/model_source.h"

namespace moesaic::checkpoint {

/// Gives the config the expert pool of a model, which decides the shapes of the gate's parameters,
/// and the measured loads if parallel.placement wants them. Throws kUsage if the ranks are more
/// than the experts to share out, kMismatch if the model has other layers.
void adopt_pool(ModelSource& source, config::Config& config);

/// The same after a change, which is what the requests make of the model. config: with its expert
/// pool. Throws kUsage if it cannot be done; the config is then as it was.
PoolChange adopt_change(ModelSource& source, const std::vector<config::PoolRequest>& requests,
                        config::Config& config);

}  // namespace moesaic::checkpoint
