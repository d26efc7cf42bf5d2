// Rows of a table by token. Backward: tokens are sorted, and a warp adds the rows of a token in
// order. Runs of equal tokens that cross the border of a block of the sorted ones leave sums, which
// are joined in a second step.
#include "backend/cuda/choices.h"
#include "backend/cuda/cuda_backend.h"
#include "backend/cuda/device/rows.cuh"
#include "backend/cuda/token_order.h"

namespace moesaic::cuda {
namespace {

// A warp has a span of the columns of a row.
template <class Team>
__global__ void __launch_bounds__(kRowThreads)
    copy_table_rows(const float* table, std::int64_t kinds, const std::int32_t* token, float* y,
                    std::int64_t rows, int dim) {
  const std::int64_t t = Team::team();
  if (t >= rows) {
    return;
  }
  const int column = static_cast<int>(blockIdx.y) * Team::kSpan;
  const std::int64_t kind = token[t];
  typename Team::Values v = {};
  if (kind >= 0 && kind < kinds) {
    Team::load(table + kind * dim + column, dim - column, v);
  }
  Team::store(y + t * dim + column, dim - column, v);
}

constexpr int kTogether = 4;  // rows that are read at once

// Sorted tokens in blocks of a warp's width.
struct Sorted {
  const std::int32_t* kind;
  const std::int32_t* from;
  std::int64_t count;
  int kinds;

  __device__ __forceinline__ std::int64_t end_of(std::int64_t block) const {
    return (block + 1) * kWarp < count ? (block + 1) * kWarp : count;
  }
  // Whether the tokens before and at i are of one kind.
  __device__ __forceinline__ bool goes_on(std::int64_t i) const {
    return i > 0 && i < count && kind[i - 1] == kind[i];
  }
  // The place behind the last token of the kind.
  __device__ std::int64_t end_of_kind(int of_kind) const {
    std::int64_t low = 0;
    std::int64_t high = count;
    while (low < high) {
      const std::int64_t middle = (low + high) / 2;
      if (kind[middle] <= of_kind) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    return low;
  }
};

struct TableGradient {
  const float* dy;
  float* dtable;
  float* parts;  // (blocks, 2, dim): of a run that began before the block; that goes on after it
  int dim;
};

// The sum over a run of equal tokens [begin, end) of a block.
template <class Team>
__device__ __forceinline__ void put_run(const Sorted& sorted, const TableGradient& to,
                                        std::int64_t begin, std::int64_t end, int column,
                                        const typename Team::Values& sum) {
  const bool goes_on = begin % kWarp == 0 && sorted.goes_on(begin);
  const bool is_cut = (end % kWarp == 0 || end == sorted.count) && sorted.goes_on(end);
  if (goes_on || is_cut) {
    const std::int64_t part = begin / kWarp * 2 + (goes_on ? 0 : 1);
    Team::store(to.parts + part * to.dim + column, to.dim - column, sum);
    return;
  }
  float* const row = to.dtable + static_cast<std::int64_t>(sorted.kind[begin]) * to.dim + column;
  typename Team::Values total;
  Team::load(row, to.dim - column, total);
  Team::each([&](int c, int j) { total[c][j] += sum[c][j]; });
  Team::store(row, to.dim - column, total);
}

// A warp has a span of the columns of a block.
template <class Team>
__global__ void __launch_bounds__(kRowThreads) add_runs(Sorted sorted, TableGradient to) {
  const std::int64_t block = Team::team();
  const std::int64_t begin = block * kWarp;
  if (begin >= sorted.count) {
    return;
  }
  const int column = static_cast<int>(blockIdx.y) * Team::kSpan;
  const auto tokens = static_cast<int>(sorted.end_of(block) - begin);
  const std::int64_t mine = begin + (lane_index() < tokens ? lane_index() : 0);
  const int kind = lane_index() < tokens ? sorted.kind[mine] : sorted.kinds;
  const int from = sorted.from[mine];
  typename Team::Values sum = {};
  int first = 0;  // of the run
  int running = __shfl_sync(kAllLanes, kind, 0);
  for (int i = 0; i < tokens && running < sorted.kinds; i += kTogether) {
    typename Team::Values row[kTogether];
    int kinds[kTogether];
#pragma unroll
    for (int b = 0; b < kTogether; ++b) {
      kinds[b] = __shfl_sync(kAllLanes, kind, i + b);
      const std::int64_t t = __shfl_sync(kAllLanes, from, i + b);
      Team::load(to.dy + t * to.dim + column, kinds[b] < sorted.kinds ? to.dim - column : 0,
                 row[b]);
    }
#pragma unroll
    for (int b = 0; b < kTogether; ++b) {
      if (kinds[b] != running) {
        if (running < sorted.kinds) {
          put_run<Team>(sorted, to, begin + first, begin + i + b, column, sum);
        }
        running = kinds[b];
        first = i + b;
        Team::each([&](int c, int j) { sum[c][j] = 0.0F; });
      }
      Team::each([&](int c, int j) { sum[c][j] += row[b][c][j]; });
    }
  }
  if (running < sorted.kinds) {
    put_run<Team>(sorted, to, begin + first, begin + tokens, column, sum);
  }
}

// The run that begins in a block and goes on after it.
template <class Team>
__global__ void __launch_bounds__(kRowThreads) join_runs(Sorted sorted, TableGradient to) {
  const std::int64_t block = Team::team();
  const std::int64_t begin = block * kWarp;
  const std::int64_t end = begin + kWarp;
  if (end >= sorted.count || !sorted.goes_on(end)) {
    return;
  }
  const int kind = sorted.kind[end];
  const bool began_before = sorted.kind[begin] == kind && sorted.goes_on(begin);
  if (kind >= sorted.kinds || began_before) {
    return;
  }
  const int column = static_cast<int>(blockIdx.y) * Team::kSpan;
  const int width = to.dim - column;
  const std::int64_t last = (sorted.end_of_kind(kind) - 1) / kWarp;
  typename Team::Values sum;
  Team::load(to.parts + (2 * block + 1) * to.dim + column, width, sum);
#pragma unroll 4
  for (std::int64_t next = block + 1; next <= last; ++next) {
    typename Team::Values more;
    Team::load(to.parts + 2 * next * to.dim + column, width, more);
    Team::each([&](int c, int j) { sum[c][j] += more[c][j]; });
  }
  float* const row = to.dtable + static_cast<std::int64_t>(kind) * to.dim + column;
  typename Team::Values total;
  Team::load(row, width, total);
  Team::each([&](int c, int j) { total[c][j] += sum[c][j]; });
  Team::store(row, width, total);
}

}  // namespace

void CudaBackend::embedding(const Tensor& table, const Tensor& token, const Tensor& y) {
  const auto dim = static_cast<int>(table.dim(1));
  const float* const from = device<float>(table);
  float* const to = device<float>(y);
  with_flag(takes_vectors(dim, from, to), [&](auto vectors) {
    using Team = RowTeam<kWarp, 2, vectors()>;
    launch(stream(), copy_table_rows<Team>, blocks_of<Team>(y.dim(0), dim), kRowThreads, 0, from,
           table.dim(0), device<std::int32_t>(token), to, y.dim(0), dim);
  });
}

void CudaBackend::embedding_backward(const Tensor& dy, const Tensor& token, const Tensor& dtable) {
  const std::int64_t count = token.numel();
  if (count == 0 || dtable.dim(0) == 0) {
    return;
  }
  const auto dim = static_cast<int>(dtable.dim(1));
  const TokenOrder order = sort_tokens(*this, token, dtable.dim(0));
  const Sorted sorted{device<std::int32_t>(order.kind), device<std::int32_t>(order.from), count,
                      static_cast<int>(dtable.dim(0))};
  const std::int64_t blocks = (count + kWarp - 1) / kWarp;
  const Tensor parts = empty(DType::kF32, {blocks, 2, dim});
  const TableGradient to{device<float>(dy), device<float>(dtable), device<float>(parts), dim};
  with_flag(takes_vectors(dim, to.dy, to.dtable, to.parts), [&](auto vectors) {
    using Team = RowTeam<kWarp, 1, vectors()>;
    const dim3 grid = blocks_of<Team>(blocks, dim);
    launch(stream(), add_runs<Team>, grid, kRowThreads, 0, sorted, to);
    launch(stream(), join_runs<Team>, grid, kRowThreads, 0, sorted, to);
  });
}

}  // namespace moesaic::cuda
