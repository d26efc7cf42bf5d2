#include <cmath>

#include "backend/cpu/cpu_backend.h"

namespace moesaic::cpu {

void CpuBackend::adamw(const AdamW& step, const Tensor& grad, const Tensor& value,
                       const Tensor& exp_avg, const Tensor& exp_avg_sq, const Tensor& copy) {
  const AdamWStep s{step.lr,           step.beta1,       step.beta2,       step.eps,
                    step.weight_decay, step.correction1, step.correction2, step.grad_scale};
  with_kernels(copy.defined() ? copy.dtype() : DType::kF32, [&](const auto& kernels, auto type) {
    using A = decltype(type);
    share(grad.numel(), [&](std::int64_t begin, std::int64_t end, std::int64_t) {
      const auto update = [&](const auto& kernel, auto moment) {
        using M = decltype(moment);
        kernel(s, grad.as<float>().data() + begin, value.as<float>().data() + begin,
               exp_avg.as<M>().data() + begin, exp_avg_sq.as<M>().data() + begin,
               copy.defined() ? copy.as<A>().data() + begin : nullptr, end - begin);
      };
      if (exp_avg.dtype() == DType::kBf16) {
        update(kernels.adamw_bf16, BFloat16{});
      } else {
        update(kernels.adamw, float{});
      }
    });
  });
}

}  // namespace moesaic::cpu
