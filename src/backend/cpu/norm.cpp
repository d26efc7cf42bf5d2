#include "backend/cpu/cpu_backend.h"
#include "backend/cpu/row_groups.h"

namespace moesaic::cpu {

void CpuBackend::rms_norm(const Tensor& x, const Tensor& weight, float eps, const Tensor& y,
                          const Tensor& rstd) {
  const std::int64_t dim = x.dim(1);
  with_kernels(y.dtype(), [&](const auto& kernels, auto type) {
    using A = decltype(type);
    share(x.dim(0), [&](std::int64_t begin, std::int64_t end, std::int64_t) {
      kernels.rms_norm(x.as<float>().data() + begin * dim, weight.as<float>().data(), eps,
                       y.as<A>().data() + begin * dim, rstd.as<float>().data() + begin, end - begin,
                       dim);
    });
  });
}

void CpuBackend::rms_norm_backward(const Tensor& dy, const Tensor& x, const Tensor& weight,
                                   const Tensor& rstd, const Tensor& dx, const Tensor& dweight) {
  const std::int64_t dim = x.dim(1);
  const Tensor partial = empty(DType::kF32, {threads_, dim});
  zero(partial);
  share(x.dim(0), [&](std::int64_t begin, std::int64_t end, std::int64_t thread) {
    set_.common->rms_norm_backward(dy.as<float>().data() + begin * dim,
                                   x.as<float>().data() + begin * dim, weight.as<float>().data(),
                                   rstd.as<float>().data() + begin,
                                   dx.as<float>().data() + begin * dim,
                                   partial.as<float>().data() + thread * dim, end - begin, dim);
  });
  for (int thread = 0; dweight.defined() && thread < threads_; ++thread) {
    set_.common->add(partial.as<float>().data() + thread * dim, dweight.as<float>().data(), dim);
  }
}

void CpuBackend::group_squares(const Tensor& x, const RowGroups& groups, const Tensor& squares) {
  with_kernels(x.dtype(), [&](const auto& kernels, auto type) {
    using A = decltype(type);
    share(x.dim(0), [&](std::int64_t begin, std::int64_t end, std::int64_t) {
      kernels.group_squares(row<A>(x, begin), groups_of(x, groups), row<float>(squares, begin),
                            end - begin);
    });
  });
}

void CpuBackend::group_norm(const Tensor& x, const RowGroups& groups, const Tensor& squares,
                            float count, float eps, const Tensor& weight, const Tensor& y) {
  const GroupNorm norm{weight.as<float>().data(), count, eps};
  with_kernels(x.dtype(), [&](const auto& kernels, auto type) {
    using A = decltype(type);
    share(x.dim(0), [&](std::int64_t begin, std::int64_t end, std::int64_t) {
      kernels.group_norm(row<A>(x, begin), groups_of(x, groups), row<float>(squares, begin), norm,
                         row<A>(y, begin), end - begin);
    });
  });
}

void CpuBackend::group_dots(const Tensor& dy, const Tensor& x, const RowGroups& groups,
                            const Tensor& weight, const Tensor& dots) {
  with_kernels(x.dtype(), [&](const auto& kernels, auto type) {
    using A = decltype(type);
    share(x.dim(0), [&](std::int64_t begin, std::int64_t end, std::int64_t) {
      kernels.group_dots(row<A>(dy, begin), row<A>(x, begin), groups_of(x, groups),
                         weight.as<float>().data(), row<float>(dots, begin), end - begin);
    });
  });
}

void CpuBackend::group_norm_backward(const Tensor& dy, const Tensor& x, const RowGroups& groups,
                                     const Tensor& squares, const Tensor& dots, float count,
                                     float eps, const Tensor& weight, const Tensor& dweight) {
  const GroupNorm norm{weight.as<float>().data(), count, eps};
  const Tensor partial = empty(DType::kF32, {threads_, groups.width});
  zero(partial);
  with_kernels(x.dtype(), [&](const auto& kernels, auto type) {
    using A = decltype(type);
    share(x.dim(0), [&](std::int64_t begin, std::int64_t end, std::int64_t thread) {
      kernels.group_norm_backward(row<A>(dy, begin), row<A>(x, begin), groups_of(x, groups),
                                  row<float>(squares, begin), row<float>(dots, begin), norm,
                                  row<float>(partial, thread), end - begin);
    });
  });
  for (int thread = 0; dweight.defined() && thread < threads_; ++thread) {
    set_.common->add(row<float>(partial, thread), dweight.as<float>().data(), groups.width);
  }
}

}  // namespace moesaic::cpu
