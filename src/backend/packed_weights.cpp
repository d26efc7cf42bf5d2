#include "backend/packed_weights.h"

namespace moesaic {

Slice ColumnSlice::blocks() const { return block_aligned({begin, count}, kPackedBlock, whole); }

bool ColumnSlice::shares_blocks(std::int64_t ranks) const {
  bool shares = false;
  for (std::int64_t r = 1; r < ranks && count < whole; ++r) {
    shares = shares || share_of(whole, r, ranks).begin % kPackedBlock != 0;
  }
  return shares;
}

}  // namespace moesaic
