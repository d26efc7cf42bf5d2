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
      kernels.adamw(s, grad.as<float>().data() + begin, value.as<float>().data() + begin,
                    exp_avg.as<float>().data() + begin, exp_avg_sq.as<float>().data() + begin,
                    copy.defined() ? copy.as<A>().data() + begin : nullptr, end - begin);
    });
  });
}

}  // namespace moesaic::cpu
