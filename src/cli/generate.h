#pragma once

#include "comm/watchdog.h"
#include "config/options.h"

namespace moesaic::cli {

/// Continues every prompt of a corpus with a model. Collective over world; returns the exit code.
int generate(const config::Parsed& parsed, const comm::Communicator& world,
             comm::Watchdog& watchdog);

}  // namespace moesaic::cli
