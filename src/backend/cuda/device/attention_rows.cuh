#pragma once

#include "backend/cuda/device/attention_mma.cuh"

// From the fragments of a warp's rows to memory, and back.
namespace moesaic::cuda {

/// Calls work(m, half, query) with each row of this thread that the tile has.
template <class F, class Work>
__device__ __forceinline__ void for_rows(const QueryTile& tile, const Work& work) {
  const int first = row_warp<F>() * F::kWarpRows + lane_index() / 4;
#pragma unroll
  for (int m = 0; m < F::kRowTiles; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int query = first + m * 16 + half * 8;
      if (query < tile.count) {
        work(m, half, query);
      }
    }
  }
}

/// Calls work(n, column) with the pairs of columns of this thread that a row of values has.
template <class F, class Work>
__device__ __forceinline__ void for_columns(int v_dim, const Work& work) {
  const Columns own = own_columns<F>(v_dim);
  const int first = own.begin + lane_index() % 4 * 2;
#pragma unroll
  for (int n = 0; n < F::kColumnTiles; ++n) {
    if (first + n * 8 < own.end) {
      work(n, first + n * 8);
    }
  }
}

/// Whether this thread writes what a row has once.
template <class F>
__device__ __forceinline__ bool speaks_for_row() {
  return column_warp<F>() == 0 && lane_index() % 4 == 0;
}

__device__ __forceinline__ void store_pair(BFloat16* to, int width, int column, float a, float b) {
  if (width % 2 == 0) {
    *reinterpret_cast<std::uint32_t*>(to + column) = pack_bf16(a, b);
    return;
  }
  to[column] = to_bf16(a);
  if (column + 1 < width) {
    to[column + 1] = to_bf16(b);
  }
}
__device__ __forceinline__ void store_pair(float* to, int width, int column, float a, float b) {
  if (width % 2 == 0) {
    *reinterpret_cast<float2*>(to + column) = make_float2(a, b);
    return;
  }
  to[column] = a;
  if (column + 1 < width) {
    to[column + 1] = b;
  }
}
__device__ __forceinline__ float2 load_pair(const float* from, int width, int column) {
  if (width % 2 == 0) {
    return *reinterpret_cast<const float2*>(from + column);
  }
  return make_float2(from[column], column + 1 < width ? from[column + 1] : 0.0F);
}

/// Where a query's row is among (T, H).
template <class T>
__device__ __forceinline__ std::int64_t place_of(const AttentionCall<T>& call,
                                                 const QueryTile& tile, int query) {
  return static_cast<std::int64_t>(tile.row_of(query)) * call.heads + tile.head_of(query);
}

/// Sums so far, if there are any.
template <class F>
__device__ __forceinline__ void take_over(const AttentionCall<BFloat16>& call,
                                          const QueryTile& tile, MmaRows<F>& rows) {
  if (call.to.values == nullptr || !call.to.adds) {
    return;
  }
  for_rows<F>(tile, [&](int m, int half, int query) {
    const std::int64_t place = place_of(call, tile, query);
    rows.top[m][half] = call.to.before_top[place];
    rows.total[m][half] = call.to.before_total[place];
    for_columns<F>(call.v_dim, [&](int n, int column) {
      const float2 pair = load_pair(call.to.values + place * call.v_dim, call.v_dim, column);
      rows.values[m][n][2 * half] = pair.x;
      rows.values[m][n][2 * half + 1] = pair.y;
    });
  });
  __syncthreads();  // all have read what some will write
}

/// The rows' sums become those with the sums that are there.
template <class F>
__device__ __forceinline__ void join_rows(const AttentionCall<BFloat16>& call,
                                          const QueryTile& tile, float scale_log2,
                                          MmaRows<F>& rows) {
  for_rows<F>(tile, [&](int m, int half, int query) {
    const std::int64_t place = place_of(call, tile, query);
    const Joined joined = join_tops(call.to.before_top[place], rows.top[m][half], scale_log2);
    rows.top[m][half] = joined.top;
    rows.total[m][half] = join_sums(call.to.before_total[place], rows.total[m][half], joined);
    for_columns<F>(call.v_dim, [&](int n, int column) {
      const float2 pair = load_pair(call.to.values + place * call.v_dim, call.v_dim, column);
      float(&values)[4] = rows.values[m][n];
      values[2 * half] = join_sums(pair.x, values[2 * half], joined);
      values[2 * half + 1] = join_sums(pair.y, values[2 * half + 1], joined);
    });
  });
  __syncthreads();
}

/// Sums, or out and lse. `apart`: places between these sums and the first ones.
template <class F>
__device__ __forceinline__ void hand_over(const AttentionCall<BFloat16>& call,
                                          const QueryTile& tile, std::int64_t apart,
                                          const MmaRows<F>& rows) {
  const AttentionTarget<BFloat16>& to = call.to;
  for_rows<F>(tile, [&](int m, int half, int query) {
    const std::int64_t place = apart + place_of(call, tile, query);
    const float top = rows.top[m][half];
    const float total = rows.total[m][half];
    if (to.values == nullptr) {
      const float inverse = inverse_of(top, total);
      for_columns<F>(call.v_dim, [&](int n, int column) {
        const float(&values)[4] = rows.values[m][n];
        store_pair(to.out + place * call.v_dim, call.v_dim, column, values[2 * half] * inverse,
                   values[2 * half + 1] * inverse);
      });
      if (speaks_for_row<F>()) {
        to.lse[place] = lse_of(top, total, call.scale);
      }
      return;
    }
    for_columns<F>(call.v_dim, [&](int n, int column) {
      const float(&values)[4] = rows.values[m][n];
      store_pair(to.values + place * call.v_dim, call.v_dim, column, values[2 * half],
                 values[2 * half + 1]);
    });
    if (speaks_for_row<F>()) {
      to.top[place] = top;
      to.total[place] = total;
    }
  });
}

}  // namespace moesaic::cuda
