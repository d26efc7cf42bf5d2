#pragma once

#include "config/config.h"
#include "model/parameter/parameters.h"
#include "plan/layout.h"
#include "routing/gate_state.h"

namespace moesaic::plan {

/// What training takes beside the weights, exactly as the ranks will allocate it.
struct TrainedMemory {
  model::Parameters::TrainedBytes largest;  // each number of the rank where it is largest
  model::Parameters::TrainedBytes sum;      // over all ranks
};

/// The config must be resolved. tuning: what is trained.
TrainedMemory trained_memory(const config::Config& config, const Layout& layout,
                             const routing::GateState& gates, const model::Tuning& tuning);

}  // namespace moesaic::plan
