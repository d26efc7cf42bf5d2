#pragma once

#include "config/config.h"
#include "model/parameter/parameters.h"
#include "routing/gate_state.h"

namespace moesaic::model {

/// What train.trainable, train.lr_scale and adapter.* say of the model of a resolved config, on
/// every rank alike. kUsage: a pattern or target matches no tensor, or only the router's counts,
/// and names what is nearest; or nothing is trained.
Tuning tuning_of(const config::Config& config, const routing::GateState& gates);

}  // namespace moesaic::model
