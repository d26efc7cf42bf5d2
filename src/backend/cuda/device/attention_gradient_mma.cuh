#pragma once

#include <cstddef>

#include "backend/cuda/device/attention_gradient.cuh"
#include "backend/cuda/device/attention_mma.cuh"

// The products of the backward pass in bf16. Rows of a block are 64 keys, or 64 queries; columns
// are the tiles of the other kind. Four warps have 16 rows each, twice: the two of them compute
// scores of half of the columns, round P and dS to bf16, exchange these, and have half of each
// gradient.
namespace moesaic::cuda {

constexpr int kGradientThreads = 256;
constexpr int kWeightRow = kGradientTile + 8;

/// Places in the shared memory, in bytes; rows in elements.
struct GradientLayout {
  int a_row, b_row, rows_a, rows_b, columns_a, columns_b, p, ds, bytes;
};
inline GradientLayout gradient_layout(int head_dim, int v_dim) {
  GradientLayout layout{};
  layout.a_row = (head_dim + 15) / 16 * 16 + 8;
  layout.b_row = (v_dim + 15) / 16 * 16 + 8;
  const int a = kGradientTile * layout.a_row * 2;
  const int b = kGradientTile * layout.b_row * 2;
  layout.rows_a = static_cast<int>(sizeof(TileFacts));
  layout.rows_b = layout.rows_a + a;
  layout.columns_a = layout.rows_b + b;
  layout.columns_b = layout.columns_a + a;
  layout.p = layout.columns_b + b;
  layout.ds = layout.p + kGradientTile * kWeightRow * 2;
  layout.bytes = layout.ds + kGradientTile * kWeightRow * 2;
  return layout;
}

struct GradientShared {
  std::byte* base;
  const GradientLayout& layout;  // an argument of the kernel: it takes no registers

  __device__ BFloat16* at(int place) const { return reinterpret_cast<BFloat16*>(base + place); }
  __device__ TileFacts& facts() const { return *reinterpret_cast<TileFacts*>(base); }
};

__device__ __forceinline__ int gradient_row() { return warp_index() / 2 * 16; }
__device__ __forceinline__ int gradient_half() { return warp_index() % 2; }

/// Begins to copy rows into the places a and b.
__device__ __forceinline__ void copy_rows(const Rows<BFloat16>& rows, int head_dim, int v_dim,
                                          const GradientShared& s, int a, int b) {
  const int part = static_cast<int>(threadIdx.x) % 8;
  for (int i = static_cast<int>(threadIdx.x) / 8; i < kGradientTile; i += kGradientThreads / 8) {
    const bool valid = i < rows.count;
    copy_row(valid ? rows.a + i * rows.a_step : nullptr, valid, rows.a_vectors, head_dim, part,
             s.at(a) + i * s.layout.a_row);
    copy_row(valid ? rows.b + i * rows.b_step : nullptr, valid, rows.b_vectors, v_dim, part,
             s.at(b) + i * s.layout.b_row);
  }
}

/// Products of the warp's rows with 16 columns from `first` on.
__device__ __forceinline__ void multiply_some(const BFloat16* rows, const BFloat16* columns,
                                              int first, int step, int dim,
                                              float (&products)[2][4]) {
#pragma unroll
  for (int n = 0; n < 2; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      products[n][i] = 0.0F;
    }
  }
  const int lane = lane_index();
  rows += (gradient_row() + lane % 16) * step + lane / 16 * 8;
  columns += (first + lane / 16 * 8 + lane % 8) * step + lane / 8 % 2 * 8;
#pragma unroll 2
  for (int i = 0; i < dim; i += 16) {
    std::uint32_t a[4];
    std::uint32_t both[4];
    ldmatrix_x4(a, rows + i);
    ldmatrix_x4(both, columns + i);
    mma_bf16(products[0], a, {both[0], both[1]});
    mma_bf16(products[1], a, {both[2], both[3]});
  }
}

/// The warp's share of a gradient: 16 rows, and half of the columns.
template <int Tiles>
struct Gradient {
  float sums[Tiles][4];

  __device__ void clear() {
#pragma unroll
    for (int n = 0; n < Tiles; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        sums[n][i] = 0.0F;
      }
    }
  }
  __device__ static Columns own(int dim) {
    const int share = (dim + 31) / 32 * 16;
    return {gradient_half() * share, min((gradient_half() + 1) * share, dim)};
  }

  /// Adds weights (64, 64) times rows.
  __device__ void add(const BFloat16* weights, const BFloat16* from, int step, int dim) {
    const int lane = lane_index();
    const Columns columns = own(dim);
    weights += (gradient_row() + lane % 16) * kWeightRow + lane / 16 * 8;
    from += lane % 16 * step + columns.begin + lane / 16 * 8;
#pragma unroll
    for (int k = 0; k < kGradientTile; k += 16) {
      std::uint32_t a[4];
      ldmatrix_x4(a, weights + k);
#pragma unroll
      for (int n = 0; n < Tiles; n += 2) {
        if (columns.begin + n * 8 < columns.end) {
          std::uint32_t both[4];
          ldmatrix_x4_trans(both, from + k * step + n * 8);
          mma_bf16(sums[n], a, {both[0], both[1]});
          mma_bf16(sums[n + 1], a, {both[2], both[3]});
        }
      }
    }
  }

  __device__ void write(const GradientTarget<BFloat16>& to, std::int64_t first, int rows, int head,
                        int dim) const {
    const Columns columns = own(dim);
    const int lane = lane_index();
    const int column = columns.begin + lane % 4 * 2;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = gradient_row() + lane / 4 + half * 8;
      const std::int64_t at = to.place_of(first + row, head, column);
#pragma unroll
      for (int n = 0; n < Tiles; ++n) {
        const int left = row < rows ? columns.end - column - n * 8 : 0;
        if (left > 0) {
          write_pair(to, at + n * 8, left, sums[n][2 * half], sums[n][2 * half + 1]);
        }
      }
    }
  }
};

/// From scores and dP of the warp with 16 columns to P and dS in the shared memory. KeyRows: rows
/// are keys.
template <bool KeyRows>
__device__ __forceinline__ void share_weights(const GradientShared& s, int first, int key,
                                              bool whole, float scale, const float (&scores)[2][4],
                                              const float (&dp)[2][4]) {
  const TileFacts& facts = s.facts();
  const int lane = lane_index();
#pragma unroll
  for (int n = 0; n < 2; ++n) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = gradient_row() + lane / 4 + half * 8;
      const int column = first + n * 8 + lane % 4 * 2;
      Weights pair[2];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int query = KeyRows ? column + i : row;
        const int here = key + (KeyRows ? row : column + i);
        const bool sees = whole || (here >= facts.first[query] && here < facts.last[query]);
        const float exponent = fmaf(scores[n][2 * half + i], scale * kLog2E, -facts.base[query]);
        pair[i] = weights_of(sees ? fast_exp2(exponent) : 0.0F, dp[n][2 * half + i],
                             facts.delta[query], scale);
      }
      const int at = row * kWeightRow + column;
      if constexpr (KeyRows) {
        *reinterpret_cast<std::uint32_t*>(s.at(s.layout.p) + at) = pack_bf16(pair[0].p, pair[1].p);
      }
      *reinterpret_cast<std::uint32_t*>(s.at(s.layout.ds) + at) = pack_bf16(pair[0].ds, pair[1].ds);
    }
  }
}

/// P and dS of a tile of keys with one of queries, of which each warp computes 16 rows and half of
/// the columns, 16 after 16 to save registers. Begins where both tiles are on their way.
template <bool KeyRows>
__device__ __forceinline__ void compute_weights(const GradientShared& s,
                                                const AttentionCall<BFloat16>& call, int key,
                                                const Seen& seen) {
  cp_async_wait<0>();
  __syncthreads();
  const GradientLayout& layout = s.layout;
  const bool whole = seen.whole(key, kGradientTile);
#pragma unroll 1
  for (int i = 0; i < 2; ++i) {
    const int first = gradient_half() * 32 + i * 16;
    float scores[2][4];
    float dp[2][4];
    multiply_some(s.at(layout.rows_a), s.at(layout.columns_a), first, layout.a_row, call.head_dim,
                  scores);
    multiply_some(s.at(layout.rows_b), s.at(layout.columns_b), first, layout.b_row, call.v_dim, dp);
    share_weights<KeyRows>(s, first, key, whole, call.scale, scores, dp);
  }
  __syncthreads();
}

}  // namespace moesaic::cuda
