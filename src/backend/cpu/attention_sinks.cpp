#include "backend/cpu/cpu_backend.h"
#include "backend/cpu/row_groups.h"

namespace moesaic::cpu {

void CpuBackend::add_sinks(const Tensor& sinks, const Tensor& out, const Tensor& lse) {
  const std::int64_t heads = out.dim(1);
  const std::int64_t width = heads * out.dim(2);
  with_kernels(out.dtype(), [&](const auto& kernels, auto type) {
    using A = decltype(type);
    share(out.dim(0), [&](std::int64_t begin, std::int64_t end, std::int64_t) {
      kernels.add_sinks(sinks.as<float>().data(), out.as<A>().data() + begin * width,
                        row<float>(lse, begin), end - begin, heads, out.dim(2));
    });
  });
}

void CpuBackend::sinks_backward(const Tensor& dout, const Tensor& out, const Tensor& lse,
                                const Tensor& sinks, const Tensor& dsinks) {
  const std::int64_t heads = out.dim(1);
  const std::int64_t width = heads * out.dim(2);
  const Tensor partial = empty(DType::kF32, {threads_, heads});
  zero(partial);
  with_kernels(out.dtype(), [&](const auto& kernels, auto type) {
    using A = decltype(type);
    share(out.dim(0), [&](std::int64_t begin, std::int64_t end, std::int64_t thread) {
      kernels.sinks_backward(dout.as<A>().data() + begin * width,
                             out.as<A>().data() + begin * width, row<float>(lse, begin),
                             sinks.as<float>().data(), row<float>(partial, thread), end - begin,
                             heads, out.dim(2));
    });
  });
  for (int thread = 0; thread < threads_; ++thread) {
    set_.common->add(row<float>(partial, thread), dsinks.as<float>().data(), heads);
  }
}

}  // namespace moesaic::cpu
