// Every element alone, and sums of all.
#include "backend/cpu/kernels/instruction_set_kernels.h"
#include "backend/cpu/kernels/simd.h"

namespace moesaic::cpu::MOESAIC_ISA {

template <class A>
void from_float(const float* x, A* y, Index n) {
  for (Index i = 0; i < n; i += kLanes) {
    store(y + i, load(x + i, n - i), n - i);
  }
}
template void from_float(const float*, float*, Index);
template void from_float(const float*, BFloat16*, Index);

template <class A>
void to_float(const A* x, float* y, Index n) {
  for (Index i = 0; i < n; i += kLanes) {
    store(y + i, load(x + i, n - i), n - i);
  }
}
template void to_float(const float*, float*, Index);
template void to_float(const BFloat16*, float*, Index);

void add(const float* x, float* inout, Index n) {
  for (Index i = 0; i < n; i += kLanes) {
    store(inout + i, load(inout + i, n - i) + load(x + i, n - i), n - i);
  }
}

double sum_of_squares(const float* x, Index n) {
  using D8 = double __attribute__((vector_size(64)));
  using F8 = float __attribute__((vector_size(32)));
  D8 total{};
  Index i = 0;
  for (; i + 8 <= n; i += 8) {
    F8 v;
    std::memcpy(&v, x + i, sizeof v);
    const D8 d = __builtin_convertvector(v, D8);
    total += d * d;
  }
  double result = 0.0;
  for (Index lane = 0; lane < 8; ++lane) {
    result += total[lane];
  }
  for (; i < n; ++i) {
    result += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  }
  return result;
}

template <class A>
void clamp(A* x, float limit, Index n) {
  const F16 high = splat(limit);
  for (Index i = 0; i < n; i += kLanes) {
    const F16 v = load(x + i, n - i);
    const F16 low = v < -high ? -high : v;
    store(x + i, low > high ? high : low, n - i);
  }
}
template void clamp(float*, float, Index);
template void clamp(BFloat16*, float, Index);

template <class A>
void clamp_backward(A* dy, const A* x, float limit, Index n) {
  const F16 high = splat(limit);
  for (Index i = 0; i < n; i += kLanes) {
    const F16 v = load(x + i, n - i);
    const I16 inside = (v <= high) & (v >= -high);
    store(dy + i, inside ? load(dy + i, n - i) : F16{}, n - i);
  }
}
template void clamp_backward(float*, const float*, float, Index);
template void clamp_backward(BFloat16*, const BFloat16*, float, Index);

}  // namespace moesaic::cpu::MOESAIC_ISA
