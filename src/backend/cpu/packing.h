#pragma once

#include <cstddef>
#include <cstdint>

#include "backend/packed_layout.h"

// Panels of packed weights (packed_layout.h) from numbers, and back.
namespace moesaic::cpu {

/// Rows of w (rows, columns) that become one panel; rows <= kPackedRows. importance (columns):
/// weights of the squared errors along k, for four bits; null: all the same.
struct PanelSource {
  const float* w;
  std::int64_t rows, columns;
  const float* importance;
};

/// bf16: rounded to nearest. int8: d = max |w| / 127 over a block. int4: of each group the s and m
/// with the least sum of importance (w - rounded w)^2, found by trying some s near range / 15, for
/// three d near max |w| / 127. All numbers must be finite. out: packed_panel_bytes.
void pack_panel(PackedFormat format, const PanelSource& source, std::byte* out);
/// w (rows, columns): what the panel stands for, exactly.
void unpack_panel(PackedFormat format, const std::byte* panel, std::int64_t rows,
                  std::int64_t columns, float* w);

}  // namespace moesaic::cpu
