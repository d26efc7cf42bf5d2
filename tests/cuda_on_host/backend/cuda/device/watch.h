#pragma once

#include <cuda_runtime.h>

#include <cstddef>

#include "cuda_on_host/sanitizers.h"

// In place of src/backend/cuda/device/watch.h: AddressSanitizer sees what is free, and what is
// taken again holds 0xff.
namespace moesaic::cuda {

constexpr std::size_t kWatchedGap = cuda_on_host::kWithAsan ? 256 : 0;
inline void forbid(const void* place, std::size_t bytes) { cuda_on_host::forbid(place, bytes); }
inline void allow(const void* place, std::size_t bytes) {
  cuda_on_host::allow(place, bytes);
  cuda_on_host::spoil(place, bytes);
}

}  // namespace moesaic::cuda
