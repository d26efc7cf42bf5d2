#pragma once

#include "config/options.h"
#include "io/checkpoint.h"
#include "io/corpus.h"

namespace moesaic::cli {

/// With model.path set: the command's config with model.* and router.* from that checkpoint. A
/// model.* key that was set to something else is an error (kUsage); router.* keys that were set
/// win.
config::Parsed adopt_checkpoint_model(config::Parsed parsed);

/// Throws kBadData unless the corpus has the vocabulary that the checkpoint was trained with. An
/// empty hash is unknown: bare shards have none.
void check_vocabulary(const io::CheckpointReader& checkpoint, const io::CorpusInfo& corpus);

/// What the gate's parameters follow: the pool of experts that a checkpoint has, and the names of
/// the tasks that it knows, [0] = "none".
void adopt_pool(const io::CheckpointReader& checkpoint, config::Config& config);
std::vector<std::string> tasks_of(const io::CheckpointReader& checkpoint);

}  // namespace moesaic::cli
