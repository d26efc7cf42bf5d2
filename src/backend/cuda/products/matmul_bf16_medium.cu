#include "backend/cuda/products/matmul_bf16.cuh"

namespace moesaic::cuda {

void medium_bf16(cudaStream_t stream, const Product& product) {
  if (product.wide) {
    launch_bf16<Bf16Medium, true>(stream, product);
  } else {
    launch_bf16<Bf16Medium, false>(stream, product);
  }
}

}  // namespace moesaic::cuda
