#include "backend/cpu/matmul.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <limits>

#include "backend/cpu/cpu_backend.h"
#include "backend/cpu/group_offsets.h"
#include "backend/cpu/scratch.h"

namespace moesaic::cpu {
namespace {

constexpr std::int64_t kPanel = kGemmColumns;  // a thread's share is a multiple of these

// Rows [m0, m1) and columns [n0, n1) of c.
struct Block {
  std::int64_t m0, m1, n0, n1;
};

struct Sizes {
  std::int64_t m, n, k;
};

Sizes sizes_of(const Tensor& a, Transpose ta, const Tensor& b, Transpose tb, const Tensor& c) {
  const bool a_flat = ta == Transpose::kNo;
  const bool b_flat = tb == Transpose::kNo;
  const Sizes s{.m = a.dim(a_flat ? 0 : 1), .n = b.dim(b_flat ? 1 : 0), .k = a.dim(a_flat ? 1 : 0)};
  if (b.dim(b_flat ? 0 : 1) != s.k || c.dim(0) != s.m || c.dim(1) != s.n) {
    throw Error(Exit::kInternal, fmt::format("matmul of {} and {} into {}", a.shape().text(),
                                             b.shape().text(), c.shape().text()));
  }
  require(a.dtype() == b.dtype() && (c.dtype() == DType::kF32 || c.dtype() == a.dtype()),
          "matmul of mixed dtypes");
  return s;
}

template <class A, class C>
Gemm<A, C> block_of(const Tensor& a, Transpose ta, const Tensor& b, Transpose tb, const Tensor& c,
                    Write write, const Block& block) {
  const bool across_a = ta == Transpose::kYes;
  const bool across_b = tb == Transpose::kYes;
  const std::int64_t lda = a.dim(1);
  const std::int64_t ldb = b.dim(1);
  return {.a = a.as<A>().data() + block.m0 * (across_a ? 1 : lda),
          .lda = lda,
          .ta = across_a,
          .b = b.as<A>().data() + block.n0 * (across_b ? ldb : 1),
          .ldb = ldb,
          .tb = across_b,
          .c = c.as<C>().data() + block.m0 * c.dim(1) + block.n0,
          .ldc = c.dim(1),
          .m = block.m1 - block.m0,
          .n = block.n1 - block.n0,
          .k = a.dim(across_a ? 0 : 1),
          .add = write == Write::kAdd};
}

void multiply(const InstructionSet& set, const Tensor& a, Transpose ta, const Tensor& b,
              Transpose tb, const Tensor& c, Write write, const Block& block) {
  if (block.m0 == block.m1 || block.n0 == block.n1) {
    return;
  }
  const auto args = [&](auto run, auto in, auto out) {
    const auto g = block_of<decltype(in), decltype(out)>(a, ta, b, tb, c, write, block);
    run(g, thread_scratch(gemm_scratch(g.k)));
  };
  if (a.dtype() == DType::kF32) {
    args(set.f32->gemm, float{}, float{});
  } else if (c.dtype() == DType::kF32) {
    args(set.bf16->gemm_to_f32, BFloat16{}, float{});
  } else {
    args(set.bf16->gemm, BFloat16{}, BFloat16{});
  }
}

std::int64_t parts_of(std::int64_t n, std::int64_t unit) { return (n + unit - 1) / unit; }

// Over how many ranges of columns the threads are spread, the rest over rows: so that the largest
// block, with the packing of its rows and columns, is smallest.
std::int64_t column_ranges(const Sizes& s, std::int64_t threads) {
  constexpr std::int64_t kPacking = 12;  // as long as so many products of each element
  std::int64_t best = 1;
  std::int64_t least = std::numeric_limits<std::int64_t>::max();
  for (std::int64_t ranges = 1; ranges <= threads; ++ranges) {
    if (threads % ranges == 0) {
      const std::int64_t rows = parts_of(s.m, threads / ranges);
      const std::int64_t columns = parts_of(parts_of(s.n, kPanel), ranges) * kPanel;
      const std::int64_t cost = rows * columns + kPacking * (rows + columns);
      if (cost < least) {
        least = cost;
        best = ranges;
      }
    }
  }
  return best;
}

}  // namespace

void Matmul::run(const Tensor& a, Transpose ta, const Tensor& b, Transpose tb, const Tensor& c,
                 Write write) {
  const Sizes s = sizes_of(a, ta, b, tb, c);
  if (onednn_ && a.dtype() == DType::kBf16 && s.m * s.n * s.k > 0) {
    run_in_pieces(a, ta, b, tb, c, write);
    return;
  }
  const std::int64_t across = column_ranges(s, threads_);
  const std::int64_t down = threads_ / across;
  const std::int64_t panels = parts_of(s.n, kPanel);
#pragma omp parallel for num_threads(threads_) schedule(static, 1) if (threads_ > 1)
  for (std::int64_t t = 0; t < threads_; ++t) {
    const std::int64_t i = t % down;
    const std::int64_t j = t / down;
    multiply(set_, a, ta, b, tb, c, write,
             {.m0 = s.m * i / down,
              .m1 = s.m * (i + 1) / down,
              .n0 = panels * j / across * kPanel,
              .n1 = std::min(s.n, panels * (j + 1) / across * kPanel)});
  }
}

// The panels of all groups in a row, each as long as its product: threads take equal lengths of it,
// so that one busy group is shared out as well as many.
void Matmul::run(std::span<const Group> groups, Transpose ta, Transpose tb, Write write) {
  if (onednn_ && !groups.empty() && groups.front().a.dtype() == DType::kBf16) {
    for (const Group& g : groups) {
      run(g.a, ta, g.b, tb, g.c, write);
    }
    return;
  }
  std::vector<std::int64_t> starts = {0};
  std::vector<std::int64_t> work;  // of one panel
  for (const Group& g : groups) {
    const Sizes s = sizes_of(g.a, ta, g.b, tb, g.c);
    work.push_back(s.m * std::max<std::int64_t>(s.k, 1));
    starts.push_back(starts.back() + work.back() * parts_of(s.n, kPanel));
  }
#pragma omp parallel for num_threads(threads_) schedule(static, 1) if (threads_ > 1)
  for (std::int64_t t = 0; t < threads_; ++t) {
    const std::int64_t begin = starts.back() / threads_ * t;
    const std::int64_t end = t + 1 == threads_ ? starts.back() : starts.back() / threads_ * (t + 1);
    for (std::size_t i = 0; i < groups.size(); ++i) {
      const Group& g = groups[i];
      if (work[i] == 0) {
        continue;
      }
      const auto panel_at = [&](std::int64_t place) {
        return std::clamp<std::int64_t>(parts_of(place - starts[i], work[i]), 0,
                                        parts_of(g.c.dim(1), kPanel));
      };
      multiply(set_, g.a, ta, g.b, tb, g.c, write,
               {.m0 = 0,
                .m1 = g.c.dim(0),
                .n0 = std::min(panel_at(begin) * kPanel, g.c.dim(1)),
                .n1 = std::min(panel_at(end) * kPanel, g.c.dim(1))});
    }
  }
}

// Through oneDNN, which makes and keeps a program for each shape: experts and documents have any
// number of rows, so these go in pieces of powers of two, and what is left below 16.
void Matmul::run_in_pieces(const Tensor& a, Transpose ta, const Tensor& b, Transpose tb,
                           const Tensor& c, Write write) {
  constexpr std::int64_t kLeast = 16;
  const bool over_sum = ta == Transpose::kYes;
  const bool whole = over_sum && (tb == Transpose::kYes || c.dtype() != DType::kF32);
  const std::int64_t all = a.dim(0);
  for (std::int64_t begin = 0; begin < all;) {
    const auto left = static_cast<std::uint64_t>(all - begin);
    const std::int64_t rows = whole || all - begin < kLeast
                                  ? all - begin
                                  : static_cast<std::int64_t>(std::bit_floor(left));
    onednn_->run(a.rows(begin, rows), ta, over_sum && !whole ? b.rows(begin, rows) : b, tb,
                 over_sum ? c : c.rows(begin, rows), over_sum && begin > 0 ? Write::kAdd : write);
    begin += rows;
  }
}

namespace {

// make(part of w (G, N, M) as (N, M), the choice of the group's rows) of every group.
template <class Make>
std::vector<Matmul::Group> groups_of(const Tensor& offsets, const Tensor& w, const Tensor& x,
                                     const Make& make) {
  const std::vector<std::int64_t> ends = group_offsets(offsets, w.dim(0), x.dim(0));
  std::vector<Matmul::Group> groups;
  for (std::int64_t g = 0; g < w.dim(0); ++g) {
    const std::int64_t begin = ends[static_cast<std::size_t>(g)];
    const std::int64_t count = ends[static_cast<std::size_t>(g) + 1] - begin;
    groups.push_back(make(w.rows(g, 1).reshaped({w.dim(1), w.dim(2)}),
                          [=](const Tensor& all) { return all.rows(begin, count); }));
  }
  return groups;
}

}  // namespace

void CpuBackend::matmul(const Tensor& a, Transpose ta, const Tensor& b, Transpose tb,
                        const Tensor& c, Write write) {
  matmul_.run(a, ta, b, tb, c, write);
}

void CpuBackend::grouped_matmul(const Tensor& x, const Tensor& offsets, const Tensor& w,
                                const Tensor& y) {
  matmul_.run(groups_of(offsets, w, x,
                        [&](const Tensor& of_w, const auto& rows) {
                          return Matmul::Group{rows(x), of_w, rows(y)};
                        }),
              Transpose::kNo, Transpose::kYes, Write::kOverwrite);
}

void CpuBackend::grouped_matmul_dx(const Tensor& dy, const Tensor& offsets, const Tensor& w,
                                   const Tensor& dx) {
  matmul_.run(groups_of(offsets, w, dy,
                        [&](const Tensor& of_w, const auto& rows) {
                          return Matmul::Group{rows(dy), of_w, rows(dx)};
                        }),
              Transpose::kNo, Transpose::kNo, Write::kOverwrite);
}

void CpuBackend::grouped_matmul_dw(const Tensor& dy, const Tensor& x, const Tensor& offsets,
                                   const Tensor& dw) {
  matmul_.run(groups_of(offsets, dw, dy,
                        [&](const Tensor& of_dw, const auto& rows) {
                          return Matmul::Group{rows(dy), rows(x), of_dw};
                        }),
              Transpose::kYes, Transpose::kNo, Write::kAdd);
}

}  // namespace moesaic::cpu
