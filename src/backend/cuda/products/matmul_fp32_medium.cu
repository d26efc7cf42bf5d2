#include "backend/cuda/products/matmul_fp32.cuh"

namespace moesaic::cuda {

void medium_fp32(cudaStream_t stream, const Product& product) {
  launch_fp32<Fp32Medium>(stream, product);
}

}  // namespace moesaic::cuda
