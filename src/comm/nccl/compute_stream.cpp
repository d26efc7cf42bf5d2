#include "comm/nccl/compute_stream.h"

#include "backend/cuda/cuda_backend.h"

namespace moesaic::comm {

cudaStream_t compute_stream(Backend& backend) {
  auto* const cuda = dynamic_cast<cuda::CudaBackend*>(&backend);
  require(cuda != nullptr, "NCCL needs tensors of a GPU");
  return cuda->stream();
}

}  // namespace moesaic::comm
