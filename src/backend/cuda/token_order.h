#pragma once

#include "backend/cuda/cuda_backend.h"

namespace moesaic::cuda {

/// Tokens sorted by kind, those of one kind in their own order.
struct TokenOrder {
  Tensor kind;  // (T) int32, ascending; `kinds` for those outside [0, kinds)
  Tensor from;  // (T) int32: which token
};

/// Kinds (T) int32 of tokens, each in [0, kinds) or any other number, sorted.
TokenOrder sort_tokens(CudaBackend& backend, const Tensor& tokens, std::int64_t kinds);

}  // namespace moesaic::cuda
