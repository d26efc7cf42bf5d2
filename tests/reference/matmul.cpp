#include "reference/matmul.h"

namespace moesaic::reference {

Vector matmul(View a, bool a_transposed, View b, bool b_transposed, std::int64_t m, std::int64_t n,
              std::int64_t k) {
  Vector c(m * n, 0.0);
  for (std::int64_t i = 0; i < m; ++i) {
    for (std::int64_t j = 0; j < n; ++j) {
      for (std::int64_t l = 0; l < k; ++l) {
        const double left = a_transposed ? a[l * m + i] : a[i * k + l];
        const double right = b_transposed ? b[j * k + l] : b[l * n + j];
        c[i * n + j] += left * right;
      }
    }
  }
  return c;
}

namespace {

void append(Vector& all, const Vector& part) { all.insert(all.end(), part.begin(), part.end()); }

}  // namespace

Vector grouped_matmul(View x, IndexView offsets, View w, std::int64_t n, std::int64_t m) {
  Vector y;
  for (std::size_t g = 0; g + 1 < offsets.size(); ++g) {
    const std::int64_t rows = offsets[g + 1] - offsets[g];
    append(y, matmul(x.subspan(offsets[g] * m, rows * m), false, w.subspan(g * n * m, n * m), true,
                     rows, n, m));
  }
  return y;
}

Vector grouped_matmul_dx(View dy, IndexView offsets, View w, std::int64_t n, std::int64_t m) {
  Vector dx;
  for (std::size_t g = 0; g + 1 < offsets.size(); ++g) {
    const std::int64_t rows = offsets[g + 1] - offsets[g];
    append(dx, matmul(dy.subspan(offsets[g] * n, rows * n), false, w.subspan(g * n * m, n * m),
                      false, rows, m, n));
  }
  return dx;
}

Vector grouped_matmul_dw(View dy, View x, IndexView offsets, std::int64_t n, std::int64_t m) {
  Vector dw;
  for (std::size_t g = 0; g + 1 < offsets.size(); ++g) {
    const std::int64_t rows = offsets[g + 1] - offsets[g];
    append(dw, matmul(dy.subspan(offsets[g] * n, rows * n), true,
                      x.subspan(offsets[g] * m, rows * m), false, n, m, rows));
  }
  return dw;
}

}  // namespace moesaic::reference
