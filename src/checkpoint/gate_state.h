#pragma once

#include <vector>

#include "checkpoint/expert_pool_change.h"
#include "checkpoint/model_source.h"

namespace moesaic::checkpoint {

/// The gates of a model: its expert pools, which decide the shapes of the gate's parameters, its
/// tasks, and the measured loads if parallel.placement wants them. Throws kUsage if the ranks are
/// more than the experts to share out, kMismatch if the config has other layers.
routing::GateState gates_of(ModelSource& source, const config::Config& config);

/// Makes them what they are after a change, which is what the requests make of the model. gates:
/// those of the source. Throws kUsage if it cannot be done; they are then as they were.
PoolChange change_gates(ModelSource& source, const std::vector<config::PoolRequest>& requests,
                        const config::Config& config, routing::GateState& gates);

}  // namespace moesaic::checkpoint
