// Bias: y += b, of the row's group; its gradient is the sum of the group's rows.
#include <algorithm>

#include "backend/cuda/choices.h"
#include "backend/cuda/cuda_backend.h"
#include "backend/cuda/device/rows.cuh"
#include "backend/cuda/partial_sums.h"

namespace moesaic::cuda {
namespace {

// Rows [offsets[g], offsets[g + 1]) belong to group g; null: all `rows` to the only one.
struct GroupedRows {
  const std::int32_t* offsets;
  int groups;
  std::int64_t rows;

  __device__ __forceinline__ std::int64_t begin(int g) const {
    return offsets == nullptr ? 0 : offsets[g];
  }
  __device__ __forceinline__ std::int64_t end(int g) const {
    return offsets == nullptr ? rows : offsets[g + 1];
  }
  // The group of row t, or -1 where it belongs to nobody.
  __device__ int group_of(std::int64_t t) const {
    if (t >= end(groups - 1) || t < begin(0)) {
      return -1;
    }
    int low = 0;  // the last group that begins at or before t
    int high = groups;
    while (high - low > 1) {
      const int middle = (low + high) / 2;
      (begin(middle) <= t ? low : high) = middle;
    }
    return low;
  }
};

// A warp has a span of the columns of a row.
template <class Team, class A>
__global__ void __launch_bounds__(kRowThreads)
    add_bias_spans(A* y, GroupedRows grouped, const float* bias, int dim) {
  const std::int64_t t = Team::team();
  const int g = t < grouped.rows ? grouped.group_of(t) : -1;
  if (g < 0) {
    return;
  }
  const int column = static_cast<int>(blockIdx.y) * Team::kSpan;
  A* const row = y + t * dim + column;
  typename Team::Values v;
  typename Team::Values b;
  Team::load(row, dim - column, v);
  Team::load(bias + static_cast<std::int64_t>(g) * dim + column, dim - column, b);
  Team::each([&](int c, int j) { v[c][j] += b[c][j]; });
  Team::store(row, dim - column, v);
}

constexpr int kWarps = kRowThreads / kWarp;
constexpr int kColumns = kWarp * kVector;  // of a block

struct BiasShared {
  float sums[kWarps][kColumns];
};

// Block (columns, group, part): a part of the group's rows, warp by warp. parts (gridDim.z, groups,
// dim).
template <bool kVectors, class A>
__global__ void __launch_bounds__(kRowThreads)
    sum_group_rows(const A* dy, GroupedRows grouped, float* parts, int dim) {
  auto& s = shared<BiasShared>();
  const auto g = static_cast<int>(blockIdx.y);
  const int column = static_cast<int>(blockIdx.x) * kColumns + lane_index() * kVector;
  float total[kVector] = {};
  if (column < dim) {
    const std::int64_t step = static_cast<std::int64_t>(gridDim.z) * kWarps;
    const std::int64_t end = grouped.end(g);
    const std::int64_t first = grouped.begin(g) + static_cast<std::int64_t>(blockIdx.z) * kWarps;
#pragma unroll 4
    for (std::int64_t t = first + warp_index(); t < end; t += step) {
      float v[kVector];
      load_eight<kVectors>(dy + t * dim + column, dim - column, v);
#pragma unroll
      for (int j = 0; j < kVector; ++j) {
        total[j] += v[j];
      }
    }
  }
#pragma unroll
  for (int j = 0; j < kVector; ++j) {
    s.sums[warp_index()][lane_index() * kVector + j] = total[j];
  }
  __syncthreads();
  const int mine = static_cast<int>(blockIdx.x) * kColumns + static_cast<int>(threadIdx.x);
  if (mine < dim) {
    float sum = 0.0F;
    for (int warp = 0; warp < kWarps; ++warp) {
      sum += s.sums[warp][threadIdx.x];
    }
    parts[(static_cast<std::int64_t>(blockIdx.z) * grouped.groups + g) * dim + mine] = sum;
  }
}

GroupedRows grouped_rows(const Tensor& offsets, std::int64_t groups, std::int64_t rows) {
  if (!offsets.defined()) {
    require(groups == 1, "groups of rows without offsets");
    return {nullptr, 1, rows};
  }
  require(offsets.numel() == groups + 1, "another number of group offsets");
  return {device<std::int32_t>(offsets), static_cast<int>(groups), rows};
}

}  // namespace

void CudaBackend::add_bias(const Tensor& y, const Tensor& offsets, const Tensor& bias) {
  const auto dim = static_cast<int>(y.dim(1));
  const GroupedRows grouped = grouped_rows(offsets, bias.numel() / dim, y.dim(0));
  const float* const biases = device<float>(bias);
  with_type(y.dtype(), [&](auto type) {
    using A = decltype(type);
    A* const rows = device<A>(y);
    with_flag(takes_vectors(dim, rows, biases), [&](auto vectors) {
      using Team = RowTeam<kWarp, 2, vectors()>;
      launch(stream(), add_bias_spans<Team, A>, blocks_of<Team>(grouped.rows, dim), kRowThreads, 0,
             rows, grouped, biases, dim);
    });
  });
}

void CudaBackend::bias_backward(const Tensor& dy, const Tensor& offsets, const Tensor& dbias) {
  const auto dim = static_cast<int>(dy.dim(1));
  const GroupedRows grouped = grouped_rows(offsets, dbias.numel() / dim, dy.dim(0));
  // As many parts of each group as have 64 rows, where groups are even.
  const std::int64_t count =
      std::clamp<std::int64_t>(grouped.rows / (std::int64_t{64} * grouped.groups), 1, 64);
  const Tensor parts = empty(DType::kF32, {count, grouped.groups, dim});
  with_type(dy.dtype(), [&](auto type) {
    using A = decltype(type);
    const A* const rows = device<A>(dy);
    const dim3 grid(static_cast<unsigned>((dim + kColumns - 1) / kColumns),
                    static_cast<unsigned>(grouped.groups), static_cast<unsigned>(count));
    with_flag(takes_vectors(dim, rows), [&](auto vectors) {
      launch(stream(), sum_group_rows<vectors(), A>, grid, kRowThreads, sizeof(BiasShared), rows,
             grouped, device<float>(parts), dim);
    });
  });
  add_partial_sums(stream(), device<float>(parts), count, std::int64_t{grouped.groups} * dim,
                   device<float>(dbias));
}

}  // namespace moesaic::cuda
