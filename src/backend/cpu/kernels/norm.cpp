// Root-mean-square norm:  r = 1 / sqrt(mean(x^2) + eps),  y = x r g.
// Backward, with a = dy g and c = mean(a x):  dx = r (a - x r^2 c),  dg += dy x r.
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

}  // namespace moesaic::cpu::MOESAIC_ISA
