#pragma once

#include <vector>

#include "base/share.h"
#include "data/micro_batch.h"

namespace moesaic::model {

/// The rows of a micro-batch that this rank of cp has (data/context_chunks.h).
struct ContextShare {
  std::vector<Slice> chunks;  // of the whole micro-batch, in order of position
  std::vector<Slice> own;     // those of this rank
  data::MicroBatch rows;      // their rows, one after the other; with one rank: not used
};

}  // namespace moesaic::model
