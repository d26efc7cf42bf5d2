#include "backend/cpu/cpu_backend.h"

#include <fmt/format.h>

#include <cstring>
#include <numeric>
#include <vector>

namespace moesaic {

std::unique_ptr<Backend> make_cpu_backend(int threads, bool matrix_units) {
  cpu::InstructionSet set = cpu::best_kernels();
  set.matrix_units = set.matrix_units && matrix_units;
  return std::make_unique<cpu::CpuBackend>(threads, set);
}

namespace cpu {
namespace {

// make(part of w (G, N, M) as (N, M), the choice of the group's rows) of every group.
template <class Make>
std::vector<Matmul::Group> groups_of(std::span<const std::int64_t> offsets, const Tensor& w,
                                     const Tensor& x, const Make& make) {
  if (std::ssize(offsets) != w.dim(0) + 1 || offsets.back() != x.dim(0)) {
    throw Error(Exit::kInternal,
                fmt::format("{} group offsets for {} groups", offsets.size(), w.dim(0)));
  }
  std::vector<Matmul::Group> groups;
  for (std::int64_t g = 0; g < w.dim(0); ++g) {
    const std::int64_t begin = offsets[static_cast<std::size_t>(g)];
    const std::int64_t count = offsets[static_cast<std::size_t>(g) + 1] - begin;
    groups.push_back(make(w.rows(g, 1).reshaped({w.dim(1), w.dim(2)}),
                          [=](const Tensor& all) { return all.rows(begin, count); }));
  }
  return groups;
}

}  // namespace

CpuBackend::CpuBackend(int threads, InstructionSet set)
    : threads_(threads), set_(set), matmul_(threads, set) {
  require(threads >= 1, "a backend needs a thread");
  omp_set_num_threads(threads);
}

Tensor CpuBackend::empty(DType dtype, const Shape& shape) {
  std::shared_ptr<void> block =
      memory_pool_.take(static_cast<std::size_t>(shape.numel()) * size_of(dtype));
  auto* data = static_cast<std::byte*>(block.get());
  return {std::move(block), data, dtype, shape, Location::kHost};
}

void CpuBackend::upload(std::span<const std::byte> host, const Tensor& to) {
  require(host.size() == to.bytes(), "upload of another size");
  std::copy(host.begin(), host.end(), to.data());
}

void CpuBackend::download(const Tensor& from, std::span<std::byte> host) {
  require(host.size() == from.bytes(), "download of another size");
  std::copy_n(from.data(), host.size(), host.begin());
}

void CpuBackend::zero(const Tensor& x) {
  share(static_cast<std::int64_t>(x.bytes()),
        [&](std::int64_t begin, std::int64_t end, std::int64_t) {
          std::memset(x.data() + begin, 0, static_cast<std::size_t>(end - begin));
        });
}

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

double CpuBackend::sum_of_squares(const Tensor& x) {
  std::vector<double> sums(static_cast<std::size_t>(threads_), 0.0);
  share(x.numel(), [&](std::int64_t begin, std::int64_t end, std::int64_t thread) {
    sums[static_cast<std::size_t>(thread)] =
        set_.common->sum_of_squares(x.as<float>().data() + begin, end - begin);
  });
  return std::accumulate(sums.begin(), sums.end(), 0.0);
}

void CpuBackend::matmul(const Tensor& a, Transpose ta, const Tensor& b, Transpose tb,
                        const Tensor& c, Write write) {
  matmul_.run(a, ta, b, tb, c, write);
}

void CpuBackend::grouped_matmul(const Tensor& x, std::span<const std::int64_t> offsets,
                                const Tensor& w, const Tensor& y) {
  matmul_.run(groups_of(offsets, w, x,
                        [&](const Tensor& of_w, const auto& rows) {
                          return Matmul::Group{rows(x), of_w, rows(y)};
                        }),
              Transpose::kNo, Transpose::kYes, Write::kOverwrite);
}

void CpuBackend::grouped_matmul_dx(const Tensor& dy, std::span<const std::int64_t> offsets,
                                   const Tensor& w, const Tensor& dx) {
  matmul_.run(groups_of(offsets, w, dy,
                        [&](const Tensor& of_w, const auto& rows) {
                          return Matmul::Group{rows(dy), of_w, rows(dx)};
                        }),
              Transpose::kNo, Transpose::kNo, Write::kOverwrite);
}

void CpuBackend::grouped_matmul_dw(const Tensor& dy, const Tensor& x,
                                   std::span<const std::int64_t> offsets, const Tensor& dw) {
  matmul_.run(groups_of(offsets, dw, dy,
                        [&](const Tensor& of_dw, const auto& rows) {
                          return Matmul::Group{rows(dy), rows(x), of_dw};
                        }),
              Transpose::kYes, Transpose::kNo, Write::kAdd);
}

}  // namespace cpu
}  // namespace moesaic
