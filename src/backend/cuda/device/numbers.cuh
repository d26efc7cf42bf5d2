#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "backend/cuda/device/ptx.cuh"
#include "tensor/bf16.h"

// fp32 and bf16 on the device. BFloat16's own conversions are the host's: here it is its bits.
namespace moesaic::cuda {

__device__ __forceinline__ float to_float(float value) { return value; }
__device__ __forceinline__ float to_float(BFloat16 value) {
  return __uint_as_float(static_cast<std::uint32_t>(value.bits) << 16U);
}

/// To nearest even.
__device__ __forceinline__ BFloat16 to_bf16(float value) {
  BFloat16 out;
  out.bits = round_to_bf16(value);
  return out;
}
template <class T>
__device__ T from_float(float value);
template <>
__device__ __forceinline__ float from_float<float>(float value) {
  return value;
}
template <>
__device__ __forceinline__ BFloat16 from_float<BFloat16>(float value) {
  return to_bf16(value);
}
/// The value that a T holds of it.
template <class T>
__device__ __forceinline__ float rounded_as(float value) {
  return to_float(from_float<T>(value));
}

/// Two bf16 in a word, and back.
__device__ __forceinline__ std::uint32_t pack_bf16(float low, float high) {
  return round_to_bf16(low, high);
}
__device__ __forceinline__ float low_float(std::uint32_t word) {
  return __uint_as_float(word << 16U);
}
__device__ __forceinline__ float high_float(std::uint32_t word) {
  return __uint_as_float(word & 0xffff0000U);
}

/// One element as a float; T: float or BFloat16.
template <class T>
__device__ __forceinline__ float load(const T* from) {
  return to_float(*from);
}
template <class T>
__device__ __forceinline__ void store(T* to, float value) {
  *to = from_float<T>(value);
}

}  // namespace moesaic::cuda
