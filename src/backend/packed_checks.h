#pragma once

#include "backend/backend.h"

// What backends have in common for packed weights: their memory, and what they are checked for.
// nvcc does not compile the formatting of the messages.
namespace moesaic {

/// Packed weights of (G, N, K) in memory that is not yet written.
PackedWeights new_packed(Backend& backend, DType format, const Shape& shape);

/// The first number of a tensor that it must not have.
struct BadNumber {
  std::int64_t place;
  float value;
};
Error bad_mean_square(const BadNumber& bad, std::int64_t columns);
Error bad_weight(const BadNumber& bad, const Shape& shape);

// These throw kInternal where a call's tensors do not fit together.
void check_mean_squares(const Tensor& mean_squares, std::int64_t groups, std::int64_t columns);
void check_unpacked(const PackedWeights& packed, const Tensor& w);
void check_packed_product(const Tensor& x, const Tensor& offsets, const PackedWeights& w,
                          const Tensor& y, const Tensor& peaks);
void check_peaks(const Tensor& x, const ColumnSlice& slice, const Tensor& peaks);

}  // namespace moesaic
