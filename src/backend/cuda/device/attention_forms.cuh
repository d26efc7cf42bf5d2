#pragma once

#include <cstddef>

#include "backend/cuda/device/attention_call.cuh"
#include "backend/cuda/device/launch.cuh"
#include "backend/cuda/device/ptx.cuh"

// How blocks of attention_mma.cuh are cut, and what they have in shared memory.
namespace moesaic::cuda {

/// How a block is cut: RowWarps x ColumnWarps warps, each with RowTiles x 16 queries and
/// ColumnTiles x 8 columns of values. Warps of the same rows compute scores of some keys each and
/// exchange them.
template <int RowWarps, int ColumnWarps, int RowTiles, int ColumnTiles>
struct Form {
  static constexpr int kRowTiles = RowTiles;
  static constexpr int kColumnTiles = ColumnTiles;
  static constexpr int kColumnWarps = ColumnWarps;
  static constexpr int kWarpRows = 16 * RowTiles;
  static constexpr int kRows = kWarpRows * RowWarps;
  static constexpr int kThreads = kWarp * RowWarps * ColumnWarps;
  static constexpr int kColumns = 8 * ColumnTiles * ColumnWarps;
  static constexpr int kScoreTiles = 8 / ColumnWarps;                  // of 8 keys, by each warp
  static constexpr int kSteps = RowTiles * ColumnTiles >= 32 ? 1 : 2;  // unrolled
  static constexpr int kLeastBlocks = RowTiles * ColumnTiles <= 4 ? 4 : 1;  // at once
  static constexpr int kKeys = kRows * 2 * static_cast<int>(sizeof(int));   // behind ranges
  static constexpr int kTiles = kKeys + 128;
};
constexpr int kScoreRow = kTileKeys + 8;  // floats: 8 more, so that banks differ

/// Where things lie in the shared memory of a block, in bytes; rows in elements, 8 more than what
/// they hold, so that 8 rows lie in different banks. Values that begin the keys are not loaded.
struct MmaLayout {
  int k_row, v_row, q, k, v, scores, bytes;
  bool own_values;
};
template <class F>
MmaLayout layout_of(int head_dim, int v_dim, bool own_values) {
  MmaLayout layout{};
  layout.own_values = own_values;
  layout.k_row = (head_dim + 15) / 16 * 16 + 8;
  layout.v_row = own_values ? (v_dim + 15) / 16 * 16 + 8 : layout.k_row;
  layout.q = F::kTiles;
  layout.k = layout.q + F::kRows * layout.k_row * 2;
  layout.v = own_values ? layout.k + kTileKeys * layout.k_row * 2 : layout.k;
  layout.scores = layout.v + kTileKeys * layout.v_row * 2;
  layout.bytes = layout.scores + (F::kColumnWarps > 1 ? F::kRows * kScoreRow * 4 : 0);
  return layout;
}

/// The block's shared memory by that.
struct MmaShared {
  std::byte* base;
  const MmaLayout& layout;  // an argument of the kernel: it takes no registers

  __device__ BFloat16* q() const { return reinterpret_cast<BFloat16*>(base + layout.q); }
  __device__ BFloat16* k() const { return reinterpret_cast<BFloat16*>(base + layout.k); }
  __device__ BFloat16* v() const { return reinterpret_cast<BFloat16*>(base + layout.v); }
  __device__ float* scores() const { return reinterpret_cast<float*>(base + layout.scores); }
  __device__ int* first() const { return reinterpret_cast<int*>(base); }
  /// Where the keys lie: here, as it would take many registers.
  template <class F, class Keys>
  __device__ Keys& keys() const {
    static_assert(sizeof(Keys) <= F::kTiles - F::kKeys);
    return *reinterpret_cast<Keys*>(base + F::kKeys);
  }
};

/// Begins to copy a row of `dim` elements into one of round_up(dim, 16), with zeros behind it and
/// where it is not valid, by eight threads of which this is `part`.
__device__ __forceinline__ void copy_row(const BFloat16* from, bool valid, bool vectors, int dim,
                                         int part, BFloat16* to) {
  const int padded = (dim + 15) / 16 * 16;
  if (vectors) {
    for (int i = part * 8; i < padded; i += 64) {
      const bool inside = valid && i < dim;
      cp_async_16(to + i, inside ? from + i : nullptr, inside);
    }
    return;
  }
  for (int i = part; i < padded; i += 8) {
    to[i] = valid && i < dim ? from[i] : BFloat16{};
  }
}

/// Begins to copy the keys, or the values, of positions [key, key + 64) that some query sees.
template <class F, class RowAt>
__device__ __forceinline__ void copy_keys(const RowAt& row_at, bool vectors, int key,
                                          const Seen& seen, int dim, BFloat16* to, int to_row) {
  const int part = static_cast<int>(threadIdx.x) % 8;
  for (int i = static_cast<int>(threadIdx.x) / 8; i < kTileKeys; i += F::kThreads / 8) {
    const int position = key + i;
    const bool valid = position >= seen.least_first && position < seen.most_last;
    copy_row(valid ? row_at(position) : nullptr, valid, vectors, dim, part, to + i * to_row);
  }
}

template <class F>
__device__ void copy_queries(const AttentionCall<BFloat16>& call, const QueryTile& tile,
                             const MmaShared& s) {
  const int part = static_cast<int>(threadIdx.x) % 8;
  for (int i = static_cast<int>(threadIdx.x) / 8; i < F::kRows; i += F::kThreads / 8) {
    const bool valid = i < tile.count;
    copy_row(valid ? call.q.at(tile.row_of(i), tile.head_of(i)) : nullptr, valid, call.q.vectors,
             call.head_dim, part, s.q() + i * s.layout.k_row);
  }
}

}  // namespace moesaic::cuda
