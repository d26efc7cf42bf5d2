#include "backend/cuda/products/matmul_bf16.cuh"

namespace moesaic::cuda {

// What few rows meet are weights of a forward pass, both along k.
void small_bf16(cudaStream_t stream, const Product& product) {
  launch_bf16<Bf16Small, Inner::kDepth, Inner::kDepth, true>(stream, product);
}

void tiny_bf16(cudaStream_t stream, const Product& product) {
  launch_bf16<Bf16Tiny, Inner::kDepth, Inner::kDepth, true>(stream, product);
}

}  // namespace moesaic::cuda
