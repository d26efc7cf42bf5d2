#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <tuple>
#include <utility>

#include "backend/cuda/error.h"
#include "cuda_on_host/block.h"

// In place of src/backend/cuda/device/launch.cuh: kernels run at once, on the calling thread.
namespace moesaic::cuda {

struct LaunchOn {
  LaunchOn(cudaStream_t on, Where from = Where::here()) : stream(on), where(from) {}  // NOLINT
  cudaStream_t stream;
  Where where;
};

template <class... P, class... A>
void launch(LaunchOn on, void (*kernel)(P...), dim3 grid, dim3 block, std::size_t shared_bytes,
            A&&... args) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) {
    return;
  }
  note_launch(on.where);
  check(cuda_on_host::check_launch(grid, block, shared_bytes), "launch of a kernel", on.where);
  cuda_on_host::flush(on.stream);
  struct Call {
    void (*kernel)(P...);
    std::tuple<P...> args;
  } call{kernel, {static_cast<P>(std::forward<A>(args))...}};
  cuda_on_host::run({.grid = grid,
                     .block = block,
                     .shared_bytes = shared_bytes,
                     .body =
                         [](void* argument) {
                           auto& self = *static_cast<Call*>(argument);
                           std::apply(self.kernel, self.args);
                         },
                     .argument = &call,
                     .where = on.where});
}

template <class T>
T& shared() {
  return *static_cast<T*>(cuda_on_host::shared_memory(sizeof(T)));
}

}  // namespace moesaic::cuda
