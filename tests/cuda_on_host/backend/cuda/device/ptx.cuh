#pragma once

#include <cuda_runtime.h>

#include <bit>
#include <cstdint>

#include "cuda_on_host/warp_units.h"

// In place of src/backend/cuda/device/ptx.cuh: the same functions on the host.
namespace moesaic::cuda {

inline std::uint16_t round_to_bf16(float value) {
  const auto word = std::bit_cast<std::uint32_t>(value);
  const bool nan = (word & 0x7fffffffU) > 0x7f800000U;
  return static_cast<std::uint16_t>(nan ? 0x7fffU : (word + 0x7fffU + (word >> 16U & 1U)) >> 16U);
}
inline std::uint32_t round_to_bf16(float low, float high) {
  return static_cast<std::uint32_t>(round_to_bf16(high)) << 16U | round_to_bf16(low);
}

inline float fast_exp2(float x) {
  const float y = exp2f(x);
  return y < 0x1p-126F ? 0.0F : y;
}

inline void mma_bf16(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2],
                     Where where = Where::here()) {
  cuda_on_host::mma_bf16(d, a, b, where);
}
inline void mma_u8s8(std::int32_t (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2],
                     Where where = Where::here()) {
  cuda_on_host::mma_u8s8(d, a, b, where);
}
inline void mma_s8s8(std::int32_t (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2],
                     Where where = Where::here()) {
  cuda_on_host::mma_s8s8(d, a, b, where);
}

inline void ldmatrix_x4(std::uint32_t (&r)[4], const void* row, Where where = Where::here()) {
  cuda_on_host::ldmatrix(r, 4, false, row, where);
}
inline void ldmatrix_x4_trans(std::uint32_t (&r)[4], const void* row, Where where = Where::here()) {
  cuda_on_host::ldmatrix(r, 4, true, row, where);
}
inline void ldmatrix_x2(std::uint32_t (&r)[2], const void* row, Where where = Where::here()) {
  cuda_on_host::ldmatrix(r, 2, false, row, where);
}
inline void ldmatrix_x2_trans(std::uint32_t (&r)[2], const void* row, Where where = Where::here()) {
  cuda_on_host::ldmatrix(r, 2, true, row, where);
}

inline void cp_async_16(void* shared, const void* global, bool valid, Where where = Where::here()) {
  cuda_on_host::begin_copy(shared, valid ? global : nullptr, where);
}
inline void cp_async_commit() { cuda_on_host::end_group(); }
template <int N>
void cp_async_wait() {
  cuda_on_host::wait_for_groups(N);
}

}  // namespace moesaic::cuda
