#pragma once

#include <cstdint>

#include "backend/packed_layout.h"
#include "base/share.h"
#include "tensor/quantized.h"
#include "tensor/tensor.h"

namespace moesaic {

/// The columns of whole rows of w that x has: columns [begin, begin + count) of `whole`, where
/// ranks share them out. A block of columns has one scale, so w keeps all blocks that these are in
/// (block-aligned), and so the same codes as the whole matrix.
struct ColumnSlice {
  std::int64_t begin = 0, count = 0, whole = 0;

  /// The columns of whole rows that w keeps: all blocks that [begin, begin + count) touches.
  Slice blocks() const;
  /// Columns that w has in front of them.
  std::int64_t before() const { return begin - blocks().begin; }
  /// Whether among `ranks`, which share out the columns evenly, some share a block.
  bool shares_blocks(std::int64_t ranks) const;
};

/// Weights w (G, N, K) that are only read, as Backend::pack makes them: bf16, int8 or int4, in
/// the order in which products read them (packed_layout.h). A handle, as a Tensor is.
struct PackedWeights {
  DType format = DType::kBf16;
  std::int64_t groups = 0, rows = 0, columns = 0;
  ColumnSlice slice;  // pack: all of them
  Tensor words;       // (G, bytes of a group / 4) int32

  std::size_t bytes() const { return words.bytes(); }
};

}  // namespace moesaic
