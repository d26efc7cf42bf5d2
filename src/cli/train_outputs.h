#pragma once

#include <cstdint>
#include <vector>

#include "config/config.h"
#include "data/corpora.h"
#include "files/run_lock.h"
#include "routing/gate_state.h"

// What a training run writes to; on rank 0. First it is claimed, so that no other job changes what
// is there; when all has been checked, it is begun.
namespace moesaic::cli {

/// Locks run.dir, checkpoint.dir and the trace, and finishes what a killed save left half done.
/// kCannotCreate.
std::vector<files::RunLock> claim_train_outputs(const config::Config& config);

/// Throws if the run does not fit, or would leave behind the checkpoint that it begins with. last:
/// the last step of which checkpoints count: a run that begins anew (-1), or at one that it names,
/// leaves those of later steps behind.
void check_train_outputs(const config::Config& config, const routing::GateState& gates, int ranks,
                         const data::Corpora& corpora, std::int64_t last);

/// Where checkpoint.export writes a folder.
std::filesystem::path export_path(const config::Checkpoint& config);
/// Removes what an earlier run has written there.
void clear_export(const config::Checkpoint& config);

/// From now on the run's files are changed.
void begin_train_outputs(const config::Config& config, std::int64_t last);

/// Bytes of the routing record of one step.
double routing_bytes(const config::Config& config);

}  // namespace moesaic::cli
