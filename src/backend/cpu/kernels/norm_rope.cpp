// Root-mean-square norm:  r = 1 / sqrt(mean(x^2) + eps),  y = x r g.
// Backward, with a = dy g and c = mean(a x):  dx = r (a - x r^2 c),  dg += dy x r.
// Rotary embedding: (a, b) -> (a cos - b sin, b cos + a sin) for the pairs (i, i + head_dim / 2).
#include "backend/cpu/kernels/families.h"
#include "backend/cpu/kernels/simd.h"

namespace moesaic::cpu::MOESAIC_ISA {
namespace {

struct CosSin {
  F16 cosine, sine;
};

// Of angles up to 4e6, absolute error below 2e-7: by the nearest multiple n of pi / 2 and the
// polynomials of Cephes' sinf and cosf (Moshier 1992) for the rest. x - n pi / 2 is a fused
// multiply-add, exact for the leading part of pi / 2.
CosSin cos_sin(F16 x) {
  const F16 magic = splat(12582912.0F);  // 1.5 * 2^23: a sum with it ends in the bits of an integer
  const F16 shifted = x * 0.636619772368F + magic;
  const F16 n = shifted - magic;
  const F16 r = (x - n * 1.57079637051F) + n * 4.37113883e-8F;
  const F16 z = r * r;
  const F16 sine = ((-1.9515295891e-4F * z + 8.3321608736e-3F) * z - 1.6666654611e-1F) * z * r + r;
  const F16 cosine =
      ((2.443315711809948e-5F * z - 1.388731625493765e-3F) * z + 4.166664568298827e-2F) * z * z -
      0.5F * z + 1.0F;
  const U16 quarter = reinterpret_cast<U16>(shifted);
  const I16 odd = (quarter & 1U) != 0U;
  const U16 sine_sign = (quarter & 2U) << 30;
  const U16 cosine_sign = ((quarter + 1U) & 2U) << 30;
  return {reinterpret_cast<F16>(reinterpret_cast<U16>(odd ? sine : cosine) ^ cosine_sign),
          reinterpret_cast<F16>(reinterpret_cast<U16>(odd ? cosine : sine) ^ sine_sign)};
}

}  // namespace

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
  for (Index t = 0; t < rows; ++t, x += stride) {
    for (Index i = 0; i < half; i += kLanes) {
      const Index n = half - i;
      const CosSin of = cos_sin(load(frequency + i, n) * static_cast<float>(position[t]));
      const F16 c = of.cosine;
      const F16 s = of.sine * sign;
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
