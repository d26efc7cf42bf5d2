#pragma once

#include "reference/types.h"

namespace moesaic::reference {

/// dtable (V, dim): the sum of the rows dy (T, dim) of each token.
Vector embedding_backward(View dy, IndexView token, std::int64_t vocab, std::int64_t dim);

}  // namespace moesaic::reference
