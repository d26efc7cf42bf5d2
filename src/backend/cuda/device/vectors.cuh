#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "backend/cuda/device/numbers.cuh"

// Eight elements at once: 16 bytes of bf16, or twice 16 of fp32. Addresses are aligned to 16.
namespace moesaic::cuda {

constexpr int kVector = 8;

/// Whether rows of `width` elements that begin at aligned addresses are whole vectors (host).
template <class... T>
bool takes_vectors(std::int64_t width, const T*... rows) {
  return width % kVector == 0 && ((reinterpret_cast<std::uintptr_t>(rows) % 16 == 0) && ...);
}

__device__ __forceinline__ void load_vector(const float* from, float (&to)[kVector]) {
  const float4 low = reinterpret_cast<const float4*>(from)[0];
  const float4 high = reinterpret_cast<const float4*>(from)[1];
  to[0] = low.x;
  to[1] = low.y;
  to[2] = low.z;
  to[3] = low.w;
  to[4] = high.x;
  to[5] = high.y;
  to[6] = high.z;
  to[7] = high.w;
}
__device__ __forceinline__ void load_vector(const BFloat16* from, float (&to)[kVector]) {
  const uint4 words = *reinterpret_cast<const uint4*>(from);
  to[0] = low_float(words.x);
  to[1] = high_float(words.x);
  to[2] = low_float(words.y);
  to[3] = high_float(words.y);
  to[4] = low_float(words.z);
  to[5] = high_float(words.z);
  to[6] = low_float(words.w);
  to[7] = high_float(words.w);
}
__device__ __forceinline__ void store_vector(float* to, const float (&from)[kVector]) {
  reinterpret_cast<float4*>(to)[0] = make_float4(from[0], from[1], from[2], from[3]);
  reinterpret_cast<float4*>(to)[1] = make_float4(from[4], from[5], from[6], from[7]);
}
__device__ __forceinline__ void store_vector(BFloat16* to, const float (&from)[kVector]) {
  *reinterpret_cast<uint4*>(to) =
      make_uint4(pack_bf16(from[0], from[1]), pack_bf16(from[2], from[3]),
                 pack_bf16(from[4], from[5]), pack_bf16(from[6], from[7]));
}

}  // namespace moesaic::cuda
