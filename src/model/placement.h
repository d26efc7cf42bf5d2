#pragma once

#include <cstdint>

#include "base/share.h"

namespace moesaic::model {

/// This rank's position among those that hold one replica of the model, and so its share of every
/// parameter.
struct Placement {
  int tp_rank = 0, tp = 1;
  int expert_rank = 0, expert_ranks = 1;  // of the ranks that share out whole experts
  bool folded = false;    // experts are whole and spread over ep x tp; else split over tp as well
  bool sequence = false;  // outside of attention and experts each rank of tp has its share of rows
  int stage = 0, stages = 1;  // of the pipeline
  int chunks = 1;             // runs of layers that each stage has (interleaved if more than one)

  Slice of(std::int64_t n) const { return share_of(n, tp_rank, tp); }
  bool is_first() const { return stage == 0; }
  bool is_last() const { return stage == stages - 1; }
};

}  // namespace moesaic::model
