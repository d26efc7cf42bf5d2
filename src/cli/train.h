#pragma once

#include "comm/communicator.h"
#include "config/options.h"

namespace moesaic::cli {

/// The job `train`: corpus (and checkpoint) -> checkpoints and trace. Collective over world.
/// Returns the exit code.
int train(const config::Parsed& parsed, const comm::Communicator& world);

}  // namespace moesaic::cli
