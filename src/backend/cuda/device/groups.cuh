#pragma once

#include <cstdint>

#include "backend/attention.h"
#include "backend/cuda/device/vectors.cuh"

namespace moesaic::cuda {

/// Groups of elements in the rows of a matrix (RowGroups), as kernels are told.
struct ColumnGroups {
  std::int64_t row;  // from one row to the next
  int first, groups, stride, width;

  /// Where group g of row t begins.
  __device__ __forceinline__ std::int64_t at(std::int64_t t, int g) const {
    return t * row + first + static_cast<std::int64_t>(g) * stride;
  }
};

inline ColumnGroups groups_of(const Tensor& x, const RowGroups& groups) {
  return {.row = x.dim(1),
          .first = static_cast<int>(groups.first),
          .groups = static_cast<int>(groups.groups),
          .stride = static_cast<int>(groups.stride),
          .width = static_cast<int>(groups.width)};
}

/// Whether every group is whole aligned vectors.
template <class... T>
bool groups_take_vectors(const ColumnGroups& groups, const T*... rows) {
  const std::int64_t borders =
      groups.row | groups.first | (groups.groups > 1 ? groups.stride : 0) | groups.width;
  return takes_vectors(borders, rows...);
}

}  // namespace moesaic::cuda
