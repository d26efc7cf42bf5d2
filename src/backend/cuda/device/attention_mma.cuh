#pragma once

#include "backend/cuda/device/attention_forms.cuh"

// Attention of bf16 in tiles with an online softmax (FlashAttention-2, Dao 2023). Each warp has
// some rows of queries. For a tile of 64 keys:  S = Q K^T,  m' = max(m, row maximum of S),
//   P = exp(scale (S - m')),  l = l exp(scale (m - m')) + row sum of P,  O = O exp(..) + P V,
// with P rounded to bf16 for the second product, and all else in fp32. A hidden key adds zero. The
// order of each sum is that of the keys, whatever form a block has and whatever rows are beside.
namespace moesaic::cuda {

/// The running softmax of a warp's rows in the fragments of mma: rows lane / 4 and 8 more of each
/// tile, columns 2 (lane % 4) and the next.
template <class F>
struct MmaRows {
  float values[F::kRowTiles][F::kColumnTiles][4];
  float top[F::kRowTiles][2], total[F::kRowTiles][2];

  __device__ void clear() {
#pragma unroll
    for (int m = 0; m < F::kRowTiles; ++m) {
#pragma unroll
      for (int n = 0; n < F::kColumnTiles; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          values[m][n][i] = 0.0F;
        }
      }
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        top[m][half] = kMasked;
        total[m][half] = 0.0F;
      }
    }
  }
};

template <class F>
__device__ __forceinline__ int row_warp() {
  return warp_index() / F::kColumnWarps;
}
template <class F>
__device__ __forceinline__ int column_warp() {
  return warp_index() % F::kColumnWarps;
}
/// Columns [begin, end) of values are this warp's: whole fragments of 16.
struct Columns {
  int begin, end;
};
template <class F>
__device__ __forceinline__ Columns own_columns(int v_dim) {
  if constexpr (F::kColumnWarps == 1) {
    return {0, v_dim};
  }
  const int share = (v_dim + 16 * F::kColumnWarps - 1) / (16 * F::kColumnWarps) * 16;
  const int begin = column_warp<F>() * share;
  return {begin, min(begin + share, v_dim)};
}

/// Scores of the warp's rows with its keys of the tile.
template <class F>
__device__ __forceinline__ void multiply_keys(const MmaShared& s, int head_dim,
                                              float (&scores)[F::kRowTiles][F::kScoreTiles][4]) {
  static_assert(F::kScoreTiles % 2 == 0);
#pragma unroll
  for (int m = 0; m < F::kRowTiles; ++m) {
#pragma unroll
    for (int n = 0; n < F::kScoreTiles; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        scores[m][n][i] = 0.0F;
      }
    }
  }
  const int lane = lane_index();
  const int row = s.layout.k_row;
  const BFloat16* const q =
      s.q() + (row_warp<F>() * F::kWarpRows + lane % 16) * row + lane / 16 * 8;
  const BFloat16* const k =
      s.k() + (column_warp<F>() * F::kScoreTiles * 8 + lane / 16 * 8 + lane % 8) * row +
      lane / 8 % 2 * 8;
#pragma unroll F::kSteps
  for (int i = 0; i < head_dim; i += 16) {
    std::uint32_t a[F::kRowTiles][4];
#pragma unroll
    for (int m = 0; m < F::kRowTiles; ++m) {
      ldmatrix_x4(a[m], q + m * 16 * row + i);
    }
#pragma unroll
    for (int n = 0; n < F::kScoreTiles; n += 2) {
      std::uint32_t both[4];
      ldmatrix_x4(both, k + n * 8 * row + i);
      const std::uint32_t even[2] = {both[0], both[1]};
      const std::uint32_t odd[2] = {both[2], both[3]};
#pragma unroll
      for (int m = 0; m < F::kRowTiles; ++m) {
        mma_bf16(scores[m][n], a[m], even);
        mma_bf16(scores[m][n + 1], a[m], odd);
      }
    }
  }
}

/// Warps that have other keys of these rows read the scores here.
template <class F>
__device__ __forceinline__ void share_scores(
    const MmaShared& s, const float (&scores)[F::kRowTiles][F::kScoreTiles][4]) {
  const int lane = lane_index();
  float* const to = s.scores() + (row_warp<F>() * F::kWarpRows + lane / 4) * kScoreRow +
                    column_warp<F>() * F::kScoreTiles * 8 + lane % 4 * 2;
#pragma unroll
  for (int m = 0; m < F::kRowTiles; ++m) {
#pragma unroll
    for (int n = 0; n < F::kScoreTiles; ++n) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        *reinterpret_cast<float2*>(to + (m * 16 + half * 8) * kScoreRow + n * 8) =
            make_float2(scores[m][n][2 * half], scores[m][n][2 * half + 1]);
      }
    }
  }
}
template <class F>
__device__ __forceinline__ void take_scores(const MmaShared& s,
                                            float (&scores)[F::kRowTiles][8][4]) {
  const int lane = lane_index();
  const float* const from =
      s.scores() + (row_warp<F>() * F::kWarpRows + lane / 4) * kScoreRow + lane % 4 * 2;
#pragma unroll
  for (int m = 0; m < F::kRowTiles; ++m) {
#pragma unroll
    for (int n = 0; n < 8; ++n) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float2 pair =
            *reinterpret_cast<const float2*>(from + (m * 16 + half * 8) * kScoreRow + n * 8);
        scores[m][n][2 * half] = pair.x;
        scores[m][n][2 * half + 1] = pair.y;
      }
    }
  }
}

/// Takes out the scores of keys that a query does not see.
template <class F>
__device__ __forceinline__ void mask(const MmaShared& s, int key,
                                     float (&scores)[F::kRowTiles][8][4]) {
  const int lane = lane_index();
  const int* const first = s.first() + row_warp<F>() * F::kWarpRows + lane / 4;
#pragma unroll
  for (int m = 0; m < F::kRowTiles; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int from = first[m * 16 + half * 8] - key - lane % 4 * 2;
      const int to = first[F::kRows + m * 16 + half * 8] - key - lane % 4 * 2;
#pragma unroll
      for (int n = 0; n < 8; ++n) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          float& score = scores[m][n][2 * half + i];
          score = n * 8 + i >= from && n * 8 + i < to ? score : kMasked;
        }
      }
    }
  }
}

/// The online softmax of a row's scores (elements 2 half and 2 half + 1 of each fragment): they
/// become weights. Returns the factor of what was summed before.
__device__ __forceinline__ float soften(float (&scores)[8][4], int half, float scale_log2,
                                        float& top, float& total) {
  float best = top;
#pragma unroll
  for (int n = 0; n < 8; ++n) {
    best = fmaxf(best, fmaxf(scores[n][2 * half], scores[n][2 * half + 1]));
  }
  best = fmaxf(best, __shfl_xor_sync(kAllLanes, best, 1));
  best = fmaxf(best, __shfl_xor_sync(kAllLanes, best, 2));
  const float base = base_of(best) * scale_log2;
  const float before = fast_exp2((top - best) * scale_log2);
  float sum = 0.0F;
#pragma unroll
  for (int n = 0; n < 8; ++n) {
#pragma unroll
    for (int i = 2 * half; i < 2 * half + 2; ++i) {
      scores[n][i] = fast_exp2(fmaf(scores[n][i], scale_log2, -base));
      sum += scores[n][i];
    }
  }
  sum += __shfl_xor_sync(kAllLanes, sum, 1);
  sum += __shfl_xor_sync(kAllLanes, sum, 2);
  total = fmaf(total, before, sum);
  top = best;
  return before;
}

template <class F>
__device__ __forceinline__ void soften(float scale_log2, float (&scores)[F::kRowTiles][8][4],
                                       MmaRows<F>& rows) {
#pragma unroll
  for (int m = 0; m < F::kRowTiles; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float before =
          soften(scores[m], half, scale_log2, rows.top[m][half], rows.total[m][half]);
      if (warp_any(before != 1.0F)) {
#pragma unroll
        for (int n = 0; n < F::kColumnTiles; ++n) {
          rows.values[m][n][2 * half] *= before;
          rows.values[m][n][2 * half + 1] *= before;
        }
      }
    }
  }
}

/// Adds the values of the tile's keys with these weights.
template <class F>
__device__ __forceinline__ void add_values(const MmaShared& s, int v_dim,
                                           const float (&weights)[F::kRowTiles][8][4],
                                           MmaRows<F>& rows) {
  const int lane = lane_index();
  const int row = s.layout.v_row;
  const Columns own = own_columns<F>(v_dim);
  const BFloat16* const v = s.v() + lane % 16 * row + own.begin + lane / 16 * 8;
#pragma unroll
  for (int step = 0; step < 4; ++step) {
    std::uint32_t a[F::kRowTiles][4];
#pragma unroll
    for (int m = 0; m < F::kRowTiles; ++m) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float* const pair = weights[m][2 * step + i / 2] + i % 2 * 2;
        a[m][i] = pack_bf16(pair[0], pair[1]);
      }
    }
#pragma unroll
    for (int n = 0; n < F::kColumnTiles; n += 2) {
      if (own.begin + n * 8 < own.end) {
        std::uint32_t both[4];
        ldmatrix_x4_trans(both, v + step * 16 * row + n * 8);
        const std::uint32_t even[2] = {both[0], both[1]};
        const std::uint32_t odd[2] = {both[2], both[3]};
#pragma unroll
        for (int m = 0; m < F::kRowTiles; ++m) {
          mma_bf16(rows.values[m][n], a[m], even);
          mma_bf16(rows.values[m][n + 1], a[m], odd);
        }
      }
    }
  }
}

/// Takes the rows through the tiles of keys from `begin` on, whose ranges lie in shared memory. The
/// caller sees to it that nobody reads keys any more, and that the ranges have been written.
template <class F, class Keys>
__device__ void attend_tiles(const MmaShared& s, const Keys& all_keys, int head_dim, int v_dim,
                             float scale_log2, int begin, const Seen& seen, MmaRows<F>& rows) {
  const MmaLayout& layout = s.layout;
  const int* const first = s.first() + row_warp<F>() * F::kWarpRows;
  const Seen own = seen_by(first, first + F::kRows, F::kWarpRows);
  const Keys& keys = s.keys<F, Keys>();
  if (threadIdx.x == 0) {
    s.keys<F, Keys>() = all_keys;
  }
  __syncthreads();
  const auto copy_k = [&](int key) {
    copy_keys<F>([&](int position) { return keys.key(position); }, keys.k_vectors, key, seen,
                 head_dim, s.k(), layout.k_row);
    cp_async_commit();
  };
  copy_k(begin);
  for (int key = begin; key < seen.most_last; key += kTileKeys) {
    const bool more = key + kTileKeys < seen.most_last;
    const bool meets = own.meets(key, kTileKeys);
    cp_async_wait<0>();
    __syncthreads();  // the keys are there, and the place of values is free
    if (layout.own_values) {
      copy_keys<F>([&](int position) { return keys.value(position); }, keys.v_vectors, key, seen,
                   v_dim, s.v(), layout.v_row);
      cp_async_commit();
    }
    float scores[F::kRowTiles][8][4];
    if constexpr (F::kColumnWarps == 1) {
      if (meets) {
        multiply_keys<F>(s, head_dim, scores);
      }
    } else if (meets) {
      float some[F::kRowTiles][F::kScoreTiles][4];
      multiply_keys<F>(s, head_dim, some);
      share_scores<F>(s, some);
    }
    cp_async_wait<0>();
    __syncthreads();  // values and scores are there, and the place of keys is free
    if (more && layout.own_values) {
      copy_k(key + kTileKeys);
    }
    if (meets) {
      if constexpr (F::kColumnWarps > 1) {
        take_scores<F>(s, scores);
      }
      if (!own.whole(key, kTileKeys)) {
        mask<F>(s, key, scores);
      }
      soften<F>(scale_log2, scores, rows);
      add_values<F>(s, v_dim, scores, rows);
    }
    if (more && !layout.own_values) {
      __syncthreads();
      copy_k(key + kTileKeys);
    }
  }
}

}  // namespace moesaic::cuda
