#include "backend/cuda/products/packed.h"

#include <memory>

namespace moesaic::cuda {

Tensor bf16_matrix(const PackedWeights& packed) {
  return {std::make_shared<Tensor>(packed.words), packed.words.data(), DType::kBf16,
          Shape{packed.groups, packed.rows, packed.columns}, packed.words.location()};
}

}  // namespace moesaic::cuda
