// Root-mean-square norm:  r = 1 / sqrt(mean(x^2) + eps),  y = x r g.
// Backward, with a = dy g and c = mean(a x):  dx = r (a - x r^2 c),  dg += dy x r.
// Rotary embedding: (a, b) -> (a cos - b sin, b cos + a sin) for the pairs (i, i + head_dim / 2).
#include <cmath>

#include "backend/cpu/kernels/families.h"
#include "backend/cpu/kernels/simd.h"

namespace moesaic::cpu::MOESAIC_ISA {

template <class A>
void rms_norm(const float* x, const float* weight, float eps, A* y, float* rstd, Index rows,
              Index dim) {
  for (Index t = 0; t < rows; ++t, x += dim, y += dim) {
    F16 squares{};
    for (Index i = 0; i < dim; i += kLanes) {
      const F16 v = load(x + i, dim - i);
      squares += v * v;
    }
    const float r = 1.0F / __builtin_sqrtf(sum(squares) / static_cast<float>(dim) + eps);
    rstd[t] = r;
    for (Index i = 0; i < dim; i += kLanes) {
      store(y + i, load(x + i, dim - i) * r * load(weight + i, dim - i), dim - i);
    }
  }
}
template void rms_norm(const float*, const float*, float, float*, float*, Index, Index);
template void rms_norm(const float*, const float*, float, BFloat16*, float*, Index, Index);

void rms_norm_backward(const float* dy, const float* x, const float* weight, const float* rstd,
                       float* dx, float* dweight, Index rows, Index dim) {
  for (Index t = 0; t < rows; ++t, x += dim, dy += dim, dx += dim) {
    const float r = rstd[t];
    F16 dot{};
    for (Index i = 0; i < dim; i += kLanes) {
      const F16 xs = load(x + i, dim - i);
      const F16 dys = load(dy + i, dim - i);
      dot += dys * load(weight + i, dim - i) * xs;
      store(dweight + i, load(dweight + i, dim - i) + dys * xs * r, dim - i);
    }
    const float c = sum(dot) / static_cast<float>(dim) * r * r;
    for (Index i = 0; i < dim; i += kLanes) {
      const F16 a = load(dy + i, dim - i) * load(weight + i, dim - i);
      store(dx + i, (a - load(x + i, dim - i) * c) * r, dim - i);
    }
  }
}

template <class A>
void rope(A* x, Index stride, Index heads, Index head_dim, const std::int32_t* position,
          const float* frequency, float sign, Index rows) {
  const Index half = head_dim / 2;
  float cosine[kLanes];
  float sine[kLanes];
  for (Index t = 0; t < rows; ++t, x += stride) {
    for (Index i = 0; i < half; i += kLanes) {
      const Index n = smaller(kLanes, half - i);
      for (Index j = 0; j < n; ++j) {
        const float angle = static_cast<float>(position[t]) * frequency[i + j];
        cosine[j] = __builtin_cosf(angle);
        sine[j] = sign * __builtin_sinf(angle);
      }
      const F16 c = load(cosine, n);
      const F16 s = load(sine, n);
      for (Index h = 0; h < heads; ++h) {
        A* first = x + h * head_dim + i;
        A* second = first + half;
        const F16 a = load(first, n);
        const F16 b = load(second, n);
        store(first, a * c - b * s, n);
        store(second, b * c + a * s, n);
      }
    }
  }
}
template void rope(float*, Index, Index, Index, const std::int32_t*, const float*, float, Index);
template void rope(BFloat16*, Index, Index, Index, const std::int32_t*, const float*, float, Index);

}  // namespace moesaic::cpu::MOESAIC_ISA
