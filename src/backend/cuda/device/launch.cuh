#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <utility>

#include "backend/cuda/error.h"

// How kernels are started and find their shared memory. tests/cuda_on_host has a header of the
// same name; the order of the include path chooses.
namespace moesaic::cuda {

/// A stream and the place of the launch on it.
struct LaunchOn {
  LaunchOn(cudaStream_t on, Where from = Where::here()) : stream(on), where(from) {}  // NOLINT
  cudaStream_t stream;
  Where where;
};

/// Starts the kernel; a grid without blocks starts none. Throws Error where it cannot be started.
template <class... P, class... A>
void launch(LaunchOn on, void (*kernel)(P...), dim3 grid, dim3 block, std::size_t shared_bytes,
            A&&... args) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) {
    return;
  }
  constexpr std::size_t kWithoutAsking = std::size_t{48} * 1024;
  if (shared_bytes > kWithoutAsking) {
    check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                               cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(shared_bytes)),
          "shared memory of a kernel", on.where);
  }
  note_launch(on.where);
  kernel<<<grid, block, shared_bytes, on.stream>>>(static_cast<P>(std::forward<A>(args))...);
  check(cudaGetLastError(), "launch of a kernel", on.where);
}

/// The block's dynamic shared memory. Kernels use no other, so that tests can poison it.
template <class T>
__device__ __forceinline__ T& shared() {
  extern __shared__ __align__(128) unsigned char moesaic_shared_memory[];
  return *reinterpret_cast<T*>(moesaic_shared_memory);
}

}  // namespace moesaic::cuda
