#pragma once

#include "config/options.h"
#include "io/checkpoint.h"
#include "io/corpus.h"
#include "model/pool_change.h"

namespace moesaic::cli {

/// With model.path set: the command's config with model.* and router.* from that checkpoint. A
/// model.* key that was set to something else is an error (kUsage); router.* keys that were set
/// win.
config::Parsed adopt_checkpoint_model(config::Parsed parsed);

/// Throws kBadData unless the corpus has the vocabulary that the checkpoint was trained with. An
/// empty hash is unknown: bare shards have none.
void check_vocabulary(const io::CheckpointReader& checkpoint, const io::CorpusInfo& corpus);

/// What the gate's parameters follow: the pool of experts that a checkpoint has, with the measured
/// loads if parallel.placement wants them, and the names of the tasks that it knows, [0] = "none".
/// Throws kUsage if the ranks are more than the experts to share out.
void adopt_pool(io::CheckpointReader& checkpoint, config::Config& config);
/// The same after a change, which is what the requests make of the checkpoint. config: with its
/// pool. Throws kUsage if it cannot be done.
model::PoolChange adopt_change(io::CheckpointReader& checkpoint,
                               const std::vector<config::PoolRequest>& requests,
                               config::Config& config);
std::vector<std::string> tasks_of(const io::CheckpointReader& checkpoint);
/// Tasks, [0] = "none", that the gate has weights for.
void adopt_tasks(const std::vector<std::string>& tasks, config::Config& config);

}  // namespace moesaic::cli
