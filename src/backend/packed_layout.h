#pragma once

#include <cstdint>

#include "tensor/dtype.h"

// How packed weights lie in memory, the same for every instruction set. Sixteen rows of w (N, K)
// are a panel; their numbers lie in words of 4 bytes along k, [word][row], so that 64 bytes hold
// one word of each row. Rows and columns that do not exist are zero.
//   bf16   words of two numbers.
//   int8   blocks of 256 along k: 16 scales d (fp32), then words of four bytes u;
//          w = d (u - 128), 1 <= u <= 255.
//   int4   blocks of 256 along k: 16 scales d (fp32), for each group of 32 along k 16 pairs of
//   bytes
//          (s, m), then for each group and two words of it 64 bytes, the first word in the low
//          nibbles q, the second in the high ones; w = d (q s + m - 128), q s + m <= 255.
namespace moesaic {

constexpr std::int64_t kPackedRows = 16;    // of a panel
constexpr std::int64_t kPackedBlock = 256;  // numbers along k with one scale
constexpr std::int64_t kPackedGroup = 32;   // numbers along k with one s and m
constexpr std::int64_t kPackedUnit = 64;    // k is filled up to a multiple of this

constexpr std::int64_t packed_parts(std::int64_t n, std::int64_t size) {
  return (n + size - 1) / size;
}
constexpr std::int64_t packed_depth(std::int64_t columns) {
  return packed_parts(columns, kPackedUnit) * kPackedUnit;
}
constexpr std::int64_t packed_blocks(std::int64_t columns) {
  return packed_parts(columns, kPackedBlock);
}

constexpr std::int64_t kPackedScaleBytes = 4 * kPackedRows;  // of a block
constexpr std::int64_t kPackedPairBytes = 2 * kPackedRows;   // of a group: (s, m)

/// Bytes of a panel in bf16, int8 or int4; a multiple of 64.
constexpr std::int64_t packed_panel_bytes(DType format, std::int64_t columns) {
  const std::int64_t depth = packed_depth(columns);
  const std::int64_t scales = packed_blocks(columns) * kPackedScaleBytes;
  if (format == DType::kBf16) {
    return 2 * kPackedRows * depth;
  }
  return format == DType::kInt8
             ? kPackedRows * depth + scales
             : kPackedRows * depth / 2 + depth / kPackedGroup * kPackedPairBytes + scales;
}

}  // namespace moesaic
