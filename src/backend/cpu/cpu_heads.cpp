#include "backend/cpu/cpu_backend.h"

namespace moesaic::cpu {
namespace {

Groups groups_of(const Tensor& x, const RowGroups& groups) {
  return {.row = x.dim(1),
          .first = groups.first,
          .groups = groups.groups,
          .stride = groups.stride,
          .width = groups.width};
}

template <class A>
A* row(const Tensor& x, std::int64_t t) {
  return x.as<A>().data() + t * x.dim(1);
}

}  // namespace

void CpuBackend::rope(const Tensor& x, const RowGroups& heads, const Tensor& position,
                      const Tensor& frequency, const RopeOptions& options, Direction direction) {
  const Rotation rotation{.interleave = options.interleave,
                          .magnitude = options.magnitude,
                          .sign = direction == Direction::kForward ? 1.0F : -1.0F};
  with_kernels(x.dtype(), [&](const auto& kernels, auto type) {
    using A = decltype(type);
    share(x.dim(0), [&](std::int64_t begin, std::int64_t end, std::int64_t) {
      kernels.rope(row<A>(x, begin), groups_of(x, heads),
                   position.as<std::int32_t>().data() + begin, frequency.as<float>().data(),
                   rotation, end - begin);
    });
  });
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
  for (int thread = 0; thread < threads_; ++thread) {
    set_.common->add(row<float>(partial, thread), dweight.as<float>().data(), groups.width);
  }
}

void CpuBackend::copy_groups(const Tensor& from, const RowGroups& source, const Tensor& to,
                             const RowGroups& target, Write write) {
  require(
      source.groups == target.groups && source.width == target.width && from.dim(0) == to.dim(0),
      "copy_groups of other sizes");
  const bool add = write == Write::kAdd;
  const bool narrow = from.dtype() == DType::kBf16 || to.dtype() == DType::kBf16;
  with_kernels(narrow ? DType::kBf16 : DType::kF32, [&](const auto& kernels, auto type) {
    using A = decltype(type);
    share(from.dim(0), [&](std::int64_t begin, std::int64_t end, std::int64_t) {
      const Groups in = groups_of(from, source);
      const Groups out = groups_of(to, target);
      if (from.dtype() == to.dtype()) {
        kernels.copy_groups(row<A>(from, begin), in, row<A>(to, begin), out, add, end - begin);
      } else if (from.dtype() == DType::kF32) {
        kernels.groups_from_float(row<float>(from, begin), in, row<A>(to, begin), out, add,
                                  end - begin);
      } else {
        kernels.groups_to_float(row<A>(from, begin), in, row<float>(to, begin), out, add,
                                end - begin);
      }
    });
  });
}

void CpuBackend::clamp(const Tensor& inout, float limit) {
  with_kernels(inout.dtype(), [&](const auto& kernels, auto type) {
    using A = decltype(type);
    share(inout.numel(), [&](std::int64_t begin, std::int64_t end, std::int64_t) {
      kernels.clamp(inout.as<A>().data() + begin, limit, end - begin);
    });
  });
}

void CpuBackend::clamp_backward(const Tensor& dy, const Tensor& x, float limit) {
  with_kernels(dy.dtype(), [&](const auto& kernels, auto type) {
    using A = decltype(type);
    share(dy.numel(), [&](std::int64_t begin, std::int64_t end, std::int64_t) {
      kernels.clamp_backward(dy.as<A>().data() + begin, x.as<A>().data() + begin, limit,
                             end - begin);
    });
  });
}

void CpuBackend::add_bias(const Tensor& y, std::span<const std::int64_t> offsets,
                          const Tensor& bias) {
  const std::int64_t dim = y.dim(1);
  with_kernels(y.dtype(), [&](const auto& kernels, auto type) {
    using A = decltype(type);
    share(y.dim(0), [&](std::int64_t begin, std::int64_t end, std::int64_t) {
      for (std::size_t g = 0; g + 1 < offsets.size(); ++g) {
        const std::int64_t first = std::max(begin, offsets[g]);
        const std::int64_t rows = std::min(end, offsets[g + 1]) - first;
        if (rows > 0) {
          kernels.add_bias(row<A>(y, first),
                           bias.as<float>().data() + static_cast<std::int64_t>(g) * dim, rows, dim);
        }
      }
    });
  });
}

// Threads share the columns: the order of a sum does not depend on them.
void CpuBackend::bias_backward(const Tensor& dy, std::span<const std::int64_t> offsets,
                               const Tensor& dbias) {
  const std::int64_t dim = dy.dim(1);
  with_kernels(dy.dtype(), [&](const auto& kernels, auto type) {
    using A = decltype(type);
    share(dim, [&](std::int64_t begin, std::int64_t end, std::int64_t) {
      for (std::size_t g = 0; g + 1 < offsets.size(); ++g) {
        kernels.bias_backward(row<A>(dy, offsets[g]) + begin, dim,
                              dbias.as<float>().data() + static_cast<std::int64_t>(g) * dim + begin,
                              offsets[g + 1] - offsets[g], end - begin);
      }
    });
  });
}

void CpuBackend::gate_rows(const Tensor& x, const Tensor& logit) {
  with_kernels(x.dtype(), [&](const auto& kernels, auto type) {
    using A = decltype(type);
    share(x.dim(0), [&](std::int64_t begin, std::int64_t end, std::int64_t) {
      kernels.gate_rows(row<A>(x, begin), logit.as<float>().data() + begin, end - begin, x.dim(1));
    });
  });
}

void CpuBackend::gate_rows_backward(const Tensor& dy, const Tensor& y, const Tensor& logit,
                                    const Tensor& dlogit) {
  with_kernels(dy.dtype(), [&](const auto& kernels, auto type) {
    using A = decltype(type);
    share(dy.dim(0), [&](std::int64_t begin, std::int64_t end, std::int64_t) {
      kernels.gate_rows_backward(row<A>(dy, begin), row<A>(y, begin),
                                 logit.as<float>().data() + begin,
                                 dlogit.as<float>().data() + begin, end - begin, dy.dim(1));
    });
  });
}

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
