#include "backend/cuda/packed.h"

namespace moesaic::cuda {

PackedWeights new_packed(Backend& backend, DType format, const Shape& shape) {
  const std::int64_t columns = shape[2];
  const std::int64_t panels = packed_parts(shape[1], kPackedRows);
  return {.format = format,
          .groups = shape[0],
          .rows = shape[1],
          .columns = columns,
          .slice = {0, columns, columns},
          .words = backend.empty(DType::kI32,
                                 {shape[0], panels * packed_panel_bytes(format, columns) / 4})};
}

Tensor bf16_matrix(const PackedWeights& packed) {
  return {std::make_shared<Tensor>(packed.words), packed.words.data(), DType::kBf16,
          Shape{packed.groups, packed.rows, packed.columns}, packed.words.location()};
}

}  // namespace moesaic::cuda
