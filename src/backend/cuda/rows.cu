// Whole rows. Gate: y = x s(l) with the logistic function s of the row's logit l; backward, from y:
// dl = (1 - s) sum(dy y),  dx = dy s, as y s'(l) / s = y (1 - s). Combine: rows of tokens that come
// back from their experts, weighted and summed.
#include "backend/cuda/choices.h"
#include "backend/cuda/cuda_backend.h"
#include "backend/cuda/device/rows.cuh"

namespace moesaic::cuda {
namespace {

constexpr int kCopies = 4;  // that a lane has in flight

// A warp has kCopies units of a row for each lane.
template <class Unit>
__global__ void __launch_bounds__(kRowThreads)
    copy_rows(const Unit* x, const std::int32_t* index, Unit* y, std::int64_t rows,
              std::int64_t units) {
  const std::int64_t r =
      static_cast<std::int64_t>(blockIdx.x) * (kRowThreads / kWarp) + warp_index();
  if (r >= rows || index[r] < 0) {
    return;
  }
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.y) * (kCopies * kWarp);
  const Unit* const from = x + index[r] * units;
  Unit* const to = y + r * units;
  Unit held[kCopies];
#pragma unroll
  for (int c = 0; c < kCopies; ++c) {
    const std::int64_t unit = first + c * kWarp + lane_index();
    if (unit < units) {
      held[c] = from[unit];
    }
  }
#pragma unroll
  for (int c = 0; c < kCopies; ++c) {
    const std::int64_t unit = first + c * kWarp + lane_index();
    if (unit < units) {
      to[unit] = held[c];
    }
  }
}

template <class Unit>
void launch_copies(cudaStream_t stream, const Tensor& x, const std::int32_t* index, const Tensor& y,
                   std::int64_t row_bytes) {
  constexpr std::int64_t kWarps = kRowThreads / kWarp;
  constexpr std::int64_t kUnits = kCopies * kWarp;
  const std::int64_t rows = y.dim(0);
  const std::int64_t units = row_bytes / static_cast<std::int64_t>(sizeof(Unit));
  const dim3 grid(static_cast<unsigned>((rows + kWarps - 1) / kWarps),
                  static_cast<unsigned>((units + kUnits - 1) / kUnits));
  launch(stream, copy_rows<Unit>, grid, kRowThreads, 0, reinterpret_cast<const Unit*>(x.data()),
         index, reinterpret_cast<Unit*>(y.data()), rows, units);
}

struct Choices {
  const std::int32_t* position;  // (tokens, k)
  const float* weight;           // as many; null: 1
  std::int64_t tokens;
  int k;

  // Where the row of a token's choice c begins; below 0: it has none.
  __device__ __forceinline__ std::int64_t row(std::int64_t t, int c, int dim) const {
    return c < k ? static_cast<std::int64_t>(position[t * k + c]) * dim : -1;
  }
};
constexpr int kTogether = 4;  // rows of a token that are read at once

// A warp has a span of the columns of a token. Rows that do not exist are not read: their
// neighbours may hold NaN.
template <class Team, class A>
__global__ void __launch_bounds__(kRowThreads)
    combine_spans(const A* rows, Choices choices, float* y, int dim) {
  const std::int64_t t = Team::team();
  if (t >= choices.tokens) {
    return;
  }
  const int column = static_cast<int>(blockIdx.y) * Team::kSpan;
  typename Team::Values total = {};
  for (int first = 0; first < choices.k; first += kTogether) {
    std::int64_t at[kTogether];
    typename Team::Values row[kTogether];
#pragma unroll
    for (int b = 0; b < kTogether; ++b) {
      at[b] = choices.row(t, first + b, dim);
      if (at[b] >= 0) {
        Team::load(rows + at[b] + column, dim - column, row[b]);
      }
    }
#pragma unroll
    for (int b = 0; b < kTogether; ++b) {
      if (at[b] >= 0) {
        const float weight =
            choices.weight == nullptr ? 1.0F : choices.weight[t * choices.k + first + b];
        Team::each([&](int c, int j) { total[c][j] += weight * row[b][c][j]; });
      }
    }
  }
  Team::store(y + t * dim + column, dim - column, total);
}

// A warp a token.
template <class Team, class A>
__global__ void __launch_bounds__(kRowThreads)
    combine_tokens_backward(const float* dy, const A* rows, Choices choices, A* drows,
                            float* dweight, int dim) {
  const std::int64_t t = Team::team();
  if (t >= choices.tokens) {
    return;
  }
  for (int first = 0; first < choices.k; first += kTogether) {
    std::int64_t at[kTogether];
    float weight[kTogether];
    float dot[kTogether] = {};
#pragma unroll
    for (int b = 0; b < kTogether; ++b) {
      at[b] = choices.row(t, first + b, dim);
      weight[b] = at[b] < 0 ? 0.0F : choices.weight[t * choices.k + first + b];
    }
    for (int column = 0; column < dim; column += Team::kSpan) {
      typename Team::Values d;
      typename Team::Values row[kTogether];
      Team::load(dy + t * dim + column, dim - column, d);
#pragma unroll
      for (int b = 0; b < kTogether; ++b) {
        if (at[b] >= 0) {
          Team::load(rows + at[b] + column, dim - column, row[b]);
        }
      }
#pragma unroll
      for (int b = 0; b < kTogether; ++b) {
        if (at[b] >= 0) {
          Team::each([&](int c, int j) {
            dot[b] += d[c][j] * row[b][c][j];
            row[b][c][j] = d[c][j] * weight[b];
          });
          Team::store(drows + at[b] + column, dim - column, row[b]);
        }
      }
    }
#pragma unroll
    for (int b = 0; b < kTogether; ++b) {
      const float sum = Team::sum(dot[b]);
      if (first + b < choices.k && Team::member() == 0) {
        dweight[t * choices.k + first + b] = sum;
      }
    }
  }
}

__device__ __forceinline__ float logistic(float x) { return 1.0F / (1.0F + expf(-x)); }

// A warp has a span of the columns of a row.
template <class Team, class A>
__global__ void __launch_bounds__(kRowThreads)
    gate_row_spans(A* x, const float* logit, std::int64_t rows, int dim) {
  const std::int64_t t = Team::team();
  if (t >= rows) {
    return;
  }
  const int column = static_cast<int>(blockIdx.y) * Team::kSpan;
  A* const row = x + t * dim + column;
  typename Team::Values v;
  Team::load(row, dim - column, v);
  const float s = logistic(logit[t]);
  Team::each([&](int c, int j) { v[c][j] *= s; });
  Team::store(row, dim - column, v);
}

// A warp a row.
template <class Team, class A>
__global__ void __launch_bounds__(kRowThreads)
    gate_rows_back(A* dy, const A* y, const float* logit, float* dlogit, std::int64_t rows,
                   int dim) {
  const std::int64_t t = Team::team();
  if (t >= rows) {
    return;
  }
  const float s = logistic(logit[t]);
  float dot = 0.0F;
  for (int column = 0; column < dim; column += Team::kSpan) {
    const std::int64_t at = t * dim + column;
    typename Team::Values d;
    typename Team::Values v;
    Team::load(dy + at, dim - column, d);
    Team::load(y + at, dim - column, v);
    Team::each([&](int c, int j) {
      dot += d[c][j] * v[c][j];
      d[c][j] *= s;
    });
    Team::store(dy + at, dim - column, d);
  }
  const float sum = Team::sum(dot);
  if (Team::member() == 0) {
    dlogit[t] = (1.0F - s) * sum;
  }
}

}  // namespace

void CudaBackend::gather_rows(const Tensor& x, const Tensor& index, const Tensor& y) {
  require(x.dtype() == y.dtype(), "gather_rows of mixed dtypes");
  require(index.numel() == y.dim(0), "gather_rows of another number of rows");
  const std::int64_t row_bytes = x.dim(1) * static_cast<std::int64_t>(size_of(x.dtype()));
  const std::int32_t* const from = device<std::int32_t>(index);
  const auto borders = reinterpret_cast<std::uintptr_t>(x.data()) |
                       reinterpret_cast<std::uintptr_t>(y.data()) |
                       static_cast<std::uintptr_t>(row_bytes);
  if (borders % sizeof(uint4) == 0) {
    launch_copies<uint4>(stream(), x, from, y, row_bytes);
  } else if (borders % sizeof(std::uint32_t) == 0) {
    launch_copies<std::uint32_t>(stream(), x, from, y, row_bytes);
  } else {
    launch_copies<std::uint16_t>(stream(), x, from, y, row_bytes);
  }
}

void CudaBackend::combine_rows(const Tensor& rows, const Tensor& position, const Tensor& weight,
                               const Tensor& y) {
  const Choices choices{.position = device<std::int32_t>(position),
                        .weight = weight.defined() ? device<float>(weight) : nullptr,
                        .tokens = y.dim(0),
                        .k = static_cast<int>(position.dim(1))};
  const auto dim = static_cast<int>(y.dim(1));
  with_type(rows.dtype(), [&](auto type) {
    using A = decltype(type);
    const A* const from = device<A>(rows);
    float* const to = device<float>(y);
    with_flag(takes_vectors(dim, from, to), [&](auto vectors) {
      using Team = RowTeam<kWarp, 1, vectors()>;
      launch(stream(), combine_spans<Team, A>, blocks_of<Team>(choices.tokens, dim), kRowThreads, 0,
             from, choices, to, dim);
    });
  });
}

void CudaBackend::combine_rows_backward(const Tensor& dy, const Tensor& rows,
                                        const Tensor& position, const Tensor& weight,
                                        const Tensor& drows, const Tensor& dweight) {
  const Choices choices{.position = device<std::int32_t>(position),
                        .weight = device<float>(weight),
                        .tokens = dy.dim(0),
                        .k = static_cast<int>(position.dim(1))};
  const auto dim = static_cast<int>(dy.dim(1));
  const float* const gradient = device<float>(dy);
  with_type(rows.dtype(), [&](auto type) {
    using A = decltype(type);
    const A* const from = device<A>(rows);
    A* const to = device<A>(drows);
    with_flag(takes_vectors(dim, gradient, from, to), [&](auto vectors) {
      using Team = RowTeam<kWarp, 1, vectors()>;
      launch(stream(), combine_tokens_backward<Team, A>, blocks_of<Team>(choices.tokens),
             kRowThreads, 0, gradient, from, choices, to, device<float>(dweight), dim);
    });
  });
}

void CudaBackend::gate_rows(const Tensor& x, const Tensor& logit) {
  const auto dim = static_cast<int>(x.dim(1));
  with_type(x.dtype(), [&](auto type) {
    using A = decltype(type);
    A* const rows = device<A>(x);
    with_flag(takes_vectors(dim, rows), [&](auto vectors) {
      using Team = RowTeam<kWarp, 2, vectors()>;
      launch(stream(), gate_row_spans<Team, A>, blocks_of<Team>(x.dim(0), dim), kRowThreads, 0,
             rows, device<float>(logit), x.dim(0), dim);
    });
  });
}

void CudaBackend::gate_rows_backward(const Tensor& dy, const Tensor& y, const Tensor& logit,
                                     const Tensor& dlogit) {
  const auto dim = static_cast<int>(dy.dim(1));
  with_type(dy.dtype(), [&](auto type) {
    using A = decltype(type);
    A* const gradient = device<A>(dy);
    const A* const gated = device<A>(y);
    with_flag(takes_vectors(dim, gradient, gated), [&](auto vectors) {
      using Team = RowTeam<kWarp, 1, vectors()>;
      launch(stream(), gate_rows_back<Team, A>, blocks_of<Team>(dy.dim(0)), kRowThreads, 0,
             gradient, gated, device<float>(logit), device<float>(dlogit), dy.dim(0), dim);
    });
  });
}

}  // namespace moesaic::cuda
