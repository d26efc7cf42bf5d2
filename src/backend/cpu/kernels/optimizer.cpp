// AdamW (Loshchilov & Hutter 2019): m = b1 m + (1-b1) g,  v = b2 v + (1-b2) g^2,
//   p = p (1 - lr wd) - lr (m / c1) / (sqrt(v / c2) + eps).
#include "backend/cpu/kernels/instruction_set_kernels.h"
#include "backend/cpu/kernels/simd.h"

namespace moesaic::cpu::MOESAIC_ISA {
namespace {

F16 sqrt(F16 x) {
  for (Index i = 0; i < kLanes; ++i) {
    x[i] = __builtin_sqrtf(x[i]);
  }
  return x;
}

}  // namespace

template <class A, class M>
void adamw(const AdamWStep& step, const float* grad, float* value, M* exp_avg, M* exp_avg_sq,
           A* copy, Index n) {
  const float keep = 1.0F - step.lr * step.weight_decay;
  for (Index i = 0; i < n; i += kLanes) {
    const F16 g = load(grad + i, n - i) * step.grad_scale;
    const F16 m = load(exp_avg + i, n - i) * step.beta1 + g * (1.0F - step.beta1);
    const F16 v = load(exp_avg_sq + i, n - i) * step.beta2 + g * g * (1.0F - step.beta2);
    const F16 update = (m / step.correction1) / (sqrt(v / step.correction2) + step.eps);
    const F16 p = load(value + i, n - i) * keep - update * step.lr;
    store(exp_avg + i, m, n - i);
    store(exp_avg_sq + i, v, n - i);
    store(value + i, p, n - i);
    if (copy != nullptr) {
      store(copy + i, p, n - i);
    }
  }
}
template void adamw(const AdamWStep&, const float*, float*, float*, float*, float*, Index);
template void adamw(const AdamWStep&, const float*, float*, float*, float*, BFloat16*, Index);
template void adamw(const AdamWStep&, const float*, float*, BFloat16*, BFloat16*, float*, Index);
template void adamw(const AdamWStep&, const float*, float*, BFloat16*, BFloat16*, BFloat16*, Index);

}  // namespace moesaic::cpu::MOESAIC_ISA
