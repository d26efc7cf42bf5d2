#include <cstring>

#include "backend/cpu/cpu_backend.h"
#include "backend/cpu/group_offsets.h"
#include "backend/cpu/row_groups.h"

namespace moesaic::cpu {

void CpuBackend::gather_rows(const Tensor& x, const Tensor& index, const Tensor& y) {
  require(x.dtype() == y.dtype(), "gather_rows of mixed dtypes");
  const auto indices = index.as<std::int32_t>();
  const std::size_t row_bytes = static_cast<std::size_t>(x.dim(1)) * size_of(x.dtype());
  share(index.numel(), [&](std::int64_t begin, std::int64_t end, std::int64_t) {
    for (auto r = static_cast<std::size_t>(begin); r < static_cast<std::size_t>(end); ++r) {
      if (indices[r] >= 0) {
        std::memcpy(y.data() + r * row_bytes,
                    x.data() + static_cast<std::size_t>(indices[r]) * row_bytes, row_bytes);
      }
    }
  });
}

void CpuBackend::combine_rows(const Tensor& rows, const Tensor& position, const Tensor& weight,
                              const Tensor& y) {
  const std::int64_t k = position.dim(1);
  const std::int64_t dim = y.dim(1);
  with_kernels(rows.dtype(), [&](const auto& kernels, auto type) {
    using A = decltype(type);
    share(y.dim(0), [&](std::int64_t begin, std::int64_t end, std::int64_t) {
      kernels.combine(rows.as<A>().data(), position.as<std::int32_t>().data() + begin * k,
                      weight.defined() ? weight.as<float>().data() + begin * k : nullptr,
                      y.as<float>().data() + begin * dim, end - begin, k, dim);
    });
  });
}

void CpuBackend::combine_rows_backward(const Tensor& dy, const Tensor& rows, const Tensor& position,
                                       const Tensor& weight, const Tensor& drows,
                                       const Tensor& dweight) {
  const std::int64_t k = position.dim(1);
  const std::int64_t dim = dy.dim(1);
  with_kernels(rows.dtype(), [&](const auto& kernels, auto type) {
    using A = decltype(type);
    share(dy.dim(0), [&](std::int64_t begin, std::int64_t end, std::int64_t) {
      kernels.combine_backward(dy.as<float>().data() + begin * dim, rows.as<A>().data(),
                               position.as<std::int32_t>().data() + begin * k,
                               weight.as<float>().data() + begin * k, drows.as<A>().data(),
                               dweight.as<float>().data() + begin * k, end - begin, k, dim);
    });
  });
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

void CpuBackend::add_bias(const Tensor& y, const Tensor& offsets, const Tensor& bias) {
  const std::int64_t dim = y.dim(1);
  const std::vector<std::int64_t> ends = group_offsets(offsets, bias.numel() / dim, y.dim(0));
  with_kernels(y.dtype(), [&](const auto& kernels, auto type) {
    using A = decltype(type);
    share(y.dim(0), [&](std::int64_t begin, std::int64_t end, std::int64_t) {
      for (std::size_t g = 0; g + 1 < ends.size(); ++g) {
        const std::int64_t first = std::max(begin, ends[g]);
        const std::int64_t rows = std::min(end, ends[g + 1]) - first;
        if (rows > 0) {
          kernels.add_bias(row<A>(y, first),
                           bias.as<float>().data() + static_cast<std::int64_t>(g) * dim, rows, dim);
        }
      }
    });
  });
}

// Threads share the columns: the order of a sum does not depend on them.
void CpuBackend::bias_backward(const Tensor& dy, const Tensor& offsets, const Tensor& dbias) {
  const std::int64_t dim = dy.dim(1);
  const std::vector<std::int64_t> ends = group_offsets(offsets, dbias.numel() / dim, dy.dim(0));
  with_kernels(dy.dtype(), [&](const auto& kernels, auto type) {
    using A = decltype(type);
    share(dim, [&](std::int64_t begin, std::int64_t end, std::int64_t) {
      for (std::size_t g = 0; g + 1 < ends.size(); ++g) {
        kernels.bias_backward(row<A>(dy, ends[g]) + begin, dim,
                              dbias.as<float>().data() + static_cast<std::int64_t>(g) * dim + begin,
                              ends[g + 1] - ends[g], end - begin);
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

}  // namespace moesaic::cpu
