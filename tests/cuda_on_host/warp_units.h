#pragma once

#include <cstdint>

#include "base/error.h"

// Tensor cores, ldmatrix and cp.async. All lanes of a warp come to the first two together; bytes
// of a copy are there no sooner than somebody waited for them, and what was there is gone at once.
namespace moesaic::cuda_on_host {

void mma_bf16(float* d, const std::uint32_t* a, const std::uint32_t* b, Where where);
void mma_u8s8(std::int32_t* d, const std::uint32_t* a, const std::uint32_t* b, Where where);
void mma_s8s8(std::int32_t* d, const std::uint32_t* a, const std::uint32_t* b, Where where);

void ldmatrix(std::uint32_t* r, int matrices, bool transposed, const void* row, Where where);

/// from nullptr: zeros.
void begin_copy(void* to, const void* from, Where where);
void end_group();
void wait_for_groups(int open);

}  // namespace moesaic::cuda_on_host
