#pragma once

#include "comm/watchdog.h"
#include "config/options.h"

namespace moesaic::cli {

/// The job `train`: corpus (and checkpoint) -> checkpoints and trace. Collective over world.
/// Returns the exit code.
int train(const config::Parsed& parsed, const comm::Communicator& world, comm::Watchdog& watchdog);

}  // namespace moesaic::cli
