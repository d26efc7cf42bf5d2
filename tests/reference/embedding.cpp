#include "reference/embedding.h"

namespace moesaic::reference {

Vector embedding_backward(View dy, IndexView token, std::int64_t vocab, std::int64_t dim) {
  Vector dtable(vocab * dim, 0.0);
  for (std::int64_t t = 0; t < std::ssize(token); ++t) {
    for (std::int64_t i = 0; i < dim; ++i) {
      dtable[token[t] * dim + i] += dy[t * dim + i];
    }
  }
  return dtable;
}

}  // namespace moesaic::reference
