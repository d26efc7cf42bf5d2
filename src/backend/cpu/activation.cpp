#include "backend/cpu/cpu_backend.h"

namespace moesaic::cpu {

void CpuBackend::swiglu(const Tensor& gate_up, float limit, const Tensor& y) {
  const std::int64_t hidden = y.dim(1);
  with_kernels(y.dtype(), [&](const auto& kernels, auto type) {
    using A = decltype(type);
    share(y.dim(0), [&](std::int64_t begin, std::int64_t end, std::int64_t) {
      kernels.swiglu(gate_up.as<A>().data() + begin * 2 * hidden, limit,
                     y.as<A>().data() + begin * hidden, end - begin, hidden);
    });
  });
}

void CpuBackend::swiglu_backward(const Tensor& dy, const Tensor& gate_up, float limit,
                                 const Tensor& dgate_up) {
  const std::int64_t hidden = dy.dim(1);
  with_kernels(dy.dtype(), [&](const auto& kernels, auto type) {
    using A = decltype(type);
    share(dy.dim(0), [&](std::int64_t begin, std::int64_t end, std::int64_t) {
      kernels.swiglu_backward(dy.as<A>().data() + begin * hidden,
                              gate_up.as<A>().data() + begin * 2 * hidden, limit,
                              dgate_up.as<A>().data() + begin * 2 * hidden, end - begin, hidden);
    });
  });
}

}  // namespace moesaic::cpu
