#include <cmath>

#include "backend/cpu/cpu_backend.h"

namespace moesaic::cpu {

void CpuBackend::adamw(std::span<const AdamWTensors> tensors) {
  for (const AdamWTensors& one : tensors) {
    update_one(one);
  }
}

void CpuBackend::update_one(const AdamWTensors& tensors) {
  const AdamW& step = tensors.step;
  const Tensor& copy = tensors.copy;
  const AdamWStep s{step.lr,           step.beta1,       step.beta2,       step.eps,
                    step.weight_decay, step.correction1, step.correction2, step.grad_scale};
  with_kernels(copy.defined() ? copy.dtype() : DType::kF32, [&](const auto& kernels, auto type) {
    using A = decltype(type);
    share(tensors.grad.numel(), [&](std::int64_t begin, std::int64_t end, std::int64_t) {
      const auto update = [&](const auto& kernel, auto moment) {
        using M = decltype(moment);
        kernel(s, tensors.grad.as<float>().data() + begin, tensors.value.as<float>().data() + begin,
               tensors.exp_avg.as<M>().data() + begin, tensors.exp_avg_sq.as<M>().data() + begin,
               copy.defined() ? copy.as<A>().data() + begin : nullptr, end - begin);
      };
      if (tensors.exp_avg.dtype() == DType::kBf16) {
        update(kernels.adamw_bf16, BFloat16{});
      } else {
        update(kernels.adamw, float{});
      }
    });
  });
}

}  // namespace moesaic::cpu
