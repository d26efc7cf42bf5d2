#pragma once

#include "comm/watchdog.h"
#include "config/options.h"

namespace moesaic::cli {

/// The job `experts`: a checkpoint -> the same one with other experts. Collective over world.
/// Returns the exit code.
int experts(const config::Parsed& parsed, const comm::Communicator& world,
            comm::Watchdog& watchdog);

}  // namespace moesaic::cli
