#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <functional>

#include "nccl_double/order.h"

// Streams as threads, and the record of what is queued in them.
namespace moesaic::nccl_double {

/// The stream of backends whose kernels have ended when their call returns: what is queued there
/// is done at once, so that the host waits.
cudaStream_t compute_stream();

/// `work` is done by the stream's thread, after all that was queued there.
void queue(cudaStream_t stream, std::function<void()> work);

/// A number in the record.
int number_of(cudaStream_t stream);

/// This rank's record; only the thread that makes the calls may use it.
RankLog& record();

}  // namespace moesaic::nccl_double
