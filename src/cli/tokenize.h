#pragma once

#include "comm/communicator.h"
#include "config/config.h"

namespace moesaic::cli {

/// The job `tokenize`: text and JSONL -> corpus shards and manifest. Collective over world. Returns
/// the exit code.
int tokenize(const config::Config& config, const comm::Communicator& world);

}  // namespace moesaic::cli
