#pragma once

#include <span>

#include "backend/packed_weights.h"
#include "tensor/quantized.h"

// Between packed weights as they lie in memory (packed_layout.h) and as files hold them.
namespace moesaic {

/// The rows of one group of w (rows, columns), in int8 or int4, read back from its panels.
QuantizedRows rows_of_panels(DType format, std::span<const std::byte> panels, std::int64_t rows,
                             std::int64_t columns);
/// Lays rows into a group's panels, from row `first` of the group on. What is around them must be
/// as clear_panels left it.
void put_into_panels(const QuantizedRows& rows, std::int64_t first, std::span<std::byte> panels);
/// Panels whose rows are all 0.
void clear_panels(DType format, std::int64_t columns, std::span<std::byte> panels);

}  // namespace moesaic
