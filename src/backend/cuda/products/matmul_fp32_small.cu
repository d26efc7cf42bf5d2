#include "backend/cuda/products/matmul_fp32.cuh"

namespace moesaic::cuda {

void small_fp32(cudaStream_t stream, const Product& product) {
  launch_fp32<Fp32Small>(stream, product);
}

}  // namespace moesaic::cuda
