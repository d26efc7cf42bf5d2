#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace moesaic::cuda {

/// sums (columns) += parts (count, columns), the parts joined in a fixed order: the second stage of
/// a sum over rows.
void add_partial_sums(cudaStream_t stream, const float* parts, std::int64_t count,
                      std::int64_t columns, float* sums);

}  // namespace moesaic::cuda
