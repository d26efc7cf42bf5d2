#pragma once

#include <cuda_runtime.h>

#include <string_view>

#include "base/error.h"

namespace moesaic::cuda {

/// Throws Error if a call of CUDA failed: what was being done, CUDA's own words, and the last
/// launch, since a fault of a kernel is seen by a later call.
void check(cudaError_t result, std::string_view what, Where where = Where::here());

/// The place of the last launch, for messages.
void note_launch(Where where);

}  // namespace moesaic::cuda
