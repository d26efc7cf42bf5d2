#include "backend/cuda/products/matmul_bf16.cuh"

namespace moesaic::cuda {

void large_bf16(cudaStream_t stream, const Product& product) {
  launch_bf16<Bf16Large, true>(stream, product);
}

}  // namespace moesaic::cuda
