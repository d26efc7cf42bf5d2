#pragma once

#include "comm/watchdog.h"
#include "config/options.h"

namespace moesaic::cli {

/// The log-probability of every token of a corpus under a checkpoint. Collective over world;
/// returns the exit code.
int score(const config::Parsed& parsed, const comm::Communicator& world, comm::Watchdog& watchdog);

}  // namespace moesaic::cli
