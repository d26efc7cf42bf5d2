#pragma once

#include <string>

#include "config/options.h"
#include "io/checkpoint.h"

namespace moesaic::cli {

/// With model.path set: the command's config with model.* and router.* from that checkpoint. A
/// model.* key that was set to something else is an error (kUsage); router.* keys that were set
/// win.
config::Parsed adopt_checkpoint_model(config::Parsed parsed);

/// Throws kMismatch unless the checkpoint's vocabulary is the corpus's.
void check_vocabulary(const io::CheckpointReader& checkpoint, const std::string& vocab_sha256,
                      const std::string& corpus);

}  // namespace moesaic::cli
