#include "backend/cuda/products/matmul_fp32.cuh"

namespace moesaic::cuda {

void tiny_fp32(cudaStream_t stream, const Product& product) {
  launch_fp32<Fp32Tiny>(stream, product);
}

}  // namespace moesaic::cuda
