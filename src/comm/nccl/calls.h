#pragma once

#include <cuda_runtime.h>
#include <fmt/format.h>
#include <nccl.h>

#include "base/error.h"

namespace moesaic::comm {

/// Throws kInternal with what the library says unless the call went well.
inline void checked(cudaError_t result, const char* call) {
  if (result != cudaSuccess) {
    throw Error(Exit::kInternal, fmt::format("{}: {}", call, cudaGetErrorString(result)));
  }
}
inline void checked(ncclResult_t result, const char* call) {
  if (result != ncclSuccess) {
    throw Error(Exit::kInternal, fmt::format("{}: {}; {}", call, ncclGetErrorString(result),
                                             ncclGetLastError(nullptr)));
  }
}

}  // namespace moesaic::comm
