#pragma once

#include "backend/backend.h"

namespace moesaic::cuda {

/// Packed weights of (G, N, K) in memory that is not yet written.
PackedWeights new_packed(Backend& backend, DType format, const Shape& shape);
/// bf16 weights, which the device keeps as a matrix (G, N, K), as one.
Tensor bf16_matrix(const PackedWeights& packed);

}  // namespace moesaic::cuda
