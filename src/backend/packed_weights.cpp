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

const char* name_of(PackedFormat format) {
  switch (format) {
    case PackedFormat::kBf16:
      return "bf16";
    case PackedFormat::kInt8:
      return "int8";
    case PackedFormat::kInt4:
      return "int4";
  }
  return "";
}

PackedFormat format_of(QuantizedType type) {
  return type == QuantizedType::kInt8 ? PackedFormat::kInt8 : PackedFormat::kInt4;
}

}  // namespace moesaic
