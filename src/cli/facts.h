#pragma once

#include "checkpoint/model_source.h"
#include "comm/handshake.h"
#include "config/options.h"

namespace moesaic::cli {

/// What must be the same on all ranks (comm::check_same): the program, the job and its keys as they
/// were given.
comm::Facts facts_of(const config::Parsed& parsed);
/// Every key of a resolved config.
comm::Facts facts_of(const config::Config& config);
/// A Hugging Face folder as this rank's file system shows it; of a checkpoint every block that is
/// read is compared with the manifest, which all ranks have from rank 0.
comm::Facts::value_type fact_of(const checkpoint::ModelSource& source);

}  // namespace moesaic::cli
