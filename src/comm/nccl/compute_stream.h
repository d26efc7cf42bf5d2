#pragma once

#include <cuda_runtime.h>

#include "backend/backend.h"

namespace moesaic::comm {

/// The stream that a backend computes on.
cudaStream_t compute_stream(Backend& backend);

}  // namespace moesaic::comm
