#pragma once

#include <cuda_runtime.h>

#include <cstdint>

// Sums and the like over a warp and a block, in an order that never changes.
namespace moesaic::cuda {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffU;
constexpr int kMostWarps = 32;  // of a block

__device__ __forceinline__ int lane_index() { return static_cast<int>(threadIdx.x) % kWarp; }
__device__ __forceinline__ int warp_index() { return static_cast<int>(threadIdx.x) / kWarp; }

struct Plus {
  template <class T>
  __device__ T operator()(T a, T b) const {
    return a + b;
  }
};
struct Larger {
  template <class T>
  __device__ T operator()(T a, T b) const {
    return a < b ? b : a;
  }
};

/// Of all lanes; every lane gets it.
template <class T, class Join>
__device__ __forceinline__ T warp_join(T value, const Join& join) {
#pragma unroll
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
    value = join(value, __shfl_xor_sync(kAllLanes, value, distance));
  }
  return value;
}
template <class T>
__device__ __forceinline__ T warp_sum(T value) {
  return warp_join(value, Plus());
}
template <class T>
__device__ __forceinline__ T warp_max(T value) {
  return warp_join(value, Larger());
}
__device__ __forceinline__ bool warp_any(bool value) { return __any_sync(kAllLanes, value) != 0; }
__device__ __forceinline__ bool warp_all(bool value) { return __all_sync(kAllLanes, value) != 0; }

/// What block_join needs of the block's shared memory.
template <class T>
struct BlockScratch {
  T warp[kMostWarps];
};

/// Of all threads of a block (x alone, whole warps); every thread gets it. The scratch may be used
/// again at once.
template <class T, class Join>
__device__ __forceinline__ T block_join(T value, BlockScratch<T>& scratch, const Join& join) {
  value = warp_join(value, join);
  if (lane_index() == 0) {
    scratch.warp[warp_index()] = value;
  }
  __syncthreads();
  T total = scratch.warp[0];
  for (int warp = 1; warp < static_cast<int>(blockDim.x) / kWarp; ++warp) {
    total = join(total, scratch.warp[warp]);
  }
  __syncthreads();
  return total;
}
template <class T>
__device__ __forceinline__ T block_sum(T value, BlockScratch<T>& scratch) {
  return block_join(value, scratch, Plus());
}
template <class T>
__device__ __forceinline__ T block_max(T value, BlockScratch<T>& scratch) {
  return block_join(value, scratch, Larger());
}

}  // namespace moesaic::cuda
