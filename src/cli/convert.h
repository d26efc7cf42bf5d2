#pragma once

#include "comm/watchdog.h"
#include "config/options.h"

namespace moesaic::cli {

/// The job `convert IN OUT`: a Hugging Face folder -> a checkpoint to start from, or a checkpoint
/// -> a Hugging Face folder. Tensors go through memory one at a time, shared out over the ranks;
/// then both models compute the same tokens and are compared. Collective over world. Returns the
/// exit code.
int convert(const config::Parsed& parsed, const comm::Communicator& world,
            comm::Watchdog& watchdog);

}  // namespace moesaic::cli
