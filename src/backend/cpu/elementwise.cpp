#include <numeric>
#include <vector>

#include "backend/cpu/cpu_backend.h"

namespace moesaic::cpu {

void CpuBackend::convert(const Tensor& from, const Tensor& to) {
  require(from.numel() == to.numel(), "conversion of another size");
  if (from.dtype() == to.dtype()) {
    upload({from.data(), from.bytes()}, to);
    return;
  }
  share(from.numel(), [&](std::int64_t begin, std::int64_t end, std::int64_t) {
    if (from.dtype() == DType::kF32) {
      set_.bf16->from_float(from.as<float>().data() + begin, to.as<BFloat16>().data() + begin,
                            end - begin);
    } else {
      set_.bf16->to_float(from.as<BFloat16>().data() + begin, to.as<float>().data() + begin,
                          end - begin);
    }
  });
}

void CpuBackend::add(const Tensor& x, const Tensor& inout) {
  require(x.numel() == inout.numel(), "sum of another size");
  share(x.numel(), [&](std::int64_t begin, std::int64_t end, std::int64_t) {
    set_.common->add(x.as<float>().data() + begin, inout.as<float>().data() + begin, end - begin);
  });
}

void CpuBackend::scale(const Tensor& inout, float factor) {
  float* const values = inout.as<float>().data();
  share(inout.numel(), [&](std::int64_t begin, std::int64_t end, std::int64_t) {
    for (std::int64_t i = begin; i < end; ++i) {
      values[i] *= factor;
    }
  });
}

void CpuBackend::sums_of_squares(std::span<const Tensor> x, const Tensor& sums) {
  require(sums.numel() == std::ssize(x), "a sum of squares for each tensor");
  std::vector<double> terms(static_cast<std::size_t>(threads_));
  for (std::size_t i = 0; i < x.size(); ++i) {
    const float* const values = x[i].as<float>().data();
    std::fill(terms.begin(), terms.end(), 0.0);
    share(x[i].numel(), [&](std::int64_t begin, std::int64_t end, std::int64_t thread) {
      terms[static_cast<std::size_t>(thread)] =
          set_.common->sum_of_squares(values + begin, end - begin);
    });
    sums.as<double>()[i] = std::accumulate(terms.begin(), terms.end(), 0.0);
  }
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

}  // namespace moesaic::cpu
