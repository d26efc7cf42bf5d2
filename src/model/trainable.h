#pragma once

#include "config/config.h"
#include "model/parameter/roles.h"
#include "routing/gate_state.h"

namespace moesaic::model {

/// What train.trainable and train.lr_scale say of the model of a resolved config, on every rank
/// alike. kUsage: a pattern matches no tensor, or only the router's counts, and names what is
/// nearest; or nothing is trained.
Roles roles_of(const config::Config& config, const routing::GateState& gates);

}  // namespace moesaic::model
