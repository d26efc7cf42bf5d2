#pragma once

#include "backend/packed_checks.h"

namespace moesaic::cuda {

/// bf16 weights, which the device keeps as a matrix (G, N, K), as one.
Tensor bf16_matrix(const PackedWeights& packed);

}  // namespace moesaic::cuda
