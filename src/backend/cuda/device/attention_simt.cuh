#pragma once

#include "backend/cuda/device/attention_call.cuh"

// Attention without matrix units, for fp32 and for heads that fit no form of attention_mma.cuh: the
// same sums over tiles of 64 keys. A block has 16 queries and 256 columns of values; a thread
// computes scores of eight queries with one key, and has two columns of all queries.
namespace moesaic::cuda {

constexpr int kSimtRows = 16;
constexpr int kSimtThreads = 128;
constexpr int kSimtColumns = 2 * kSimtThreads;
constexpr int kSimtPiece = 32;  // of heads, at once
constexpr int kSimtHalf = kSimtRows / (kSimtThreads / kTileKeys);

struct SimtShared {
  int ranges[2 * kSimtRows];  // the first keys, then the last
  float top[kSimtRows], total[kSimtRows], before[kSimtRows];
  float q[kSimtRows][kSimtPiece];
  float k[kTileKeys][kSimtPiece + 1];
  float weights[kSimtRows][kTileKeys + 8];  // 8 more, so that banks differ
};

/// Columns of values of a thread: the first and the one kSimtThreads later.
struct SimtColumns {
  float values[kSimtRows][2];
};

__device__ __forceinline__ int simt_column(int i) {
  return static_cast<int>(blockIdx.y) * kSimtColumns + i * kSimtThreads +
         static_cast<int>(threadIdx.x);
}

/// Scores of a tile's keys, with what a query does not see taken out.
template <class T, class Keys>
__device__ void score_keys(const AttentionCall<T>& call, const QueryTile& tile, const Keys& keys,
                           int key, const Seen& seen, SimtShared& s) {
  const int thread = static_cast<int>(threadIdx.x);
  const int own = thread % kTileKeys;
  const int row = thread / kTileKeys * kSimtHalf;
  float scores[kSimtHalf] = {};
  for (int piece = 0; piece < call.head_dim; piece += kSimtPiece) {
    const int column = piece + thread % kSimtPiece;
    for (int i = thread / kSimtPiece; i < kSimtRows; i += kSimtThreads / kSimtPiece) {
      const bool valid = i < tile.count && column < call.head_dim;
      s.q[i][thread % kSimtPiece] =
          valid ? load(call.q.at(tile.row_of(i), tile.head_of(i)) + column) : 0.0F;
    }
    for (int i = thread / kSimtPiece; i < kTileKeys; i += kSimtThreads / kSimtPiece) {
      const bool valid =
          key + i >= seen.least_first && key + i < seen.most_last && column < call.head_dim;
      s.k[i][thread % kSimtPiece] = valid ? load(keys.key(key + i) + column) : 0.0F;
    }
    __syncthreads();
#pragma unroll 8
    for (int c = 0; c < kSimtPiece; ++c) {
#pragma unroll
      for (int i = 0; i < kSimtHalf; ++i) {
        scores[i] = fmaf(s.q[row + i][c], s.k[own][c], scores[i]);
      }
    }
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < kSimtHalf; ++i) {
    const bool sees = key + own >= s.ranges[row + i] && key + own < s.ranges[kSimtRows + row + i];
    s.weights[row + i][own] = sees ? scores[i] : kMasked;
  }
  __syncthreads();
}

/// Scores become weights: eight neighbouring threads have a row.
__device__ __forceinline__ void soften(float scale_log2, SimtShared& s) {
  static_assert(kSimtThreads == 8 * kSimtRows);
  const int row = static_cast<int>(threadIdx.x) / 8;
  float* const weights = s.weights[row] + threadIdx.x % 8;
  const auto join = [](float value, const auto& with) {
#pragma unroll
    for (int distance = 4; distance > 0; distance /= 2) {
      value = with(value, __shfl_xor_sync(kAllLanes, value, distance));
    }
    return value;
  };
  const float top = s.top[row];
  float best = top;
#pragma unroll
  for (int j = 0; j < kTileKeys; j += 8) {
    best = fmaxf(best, weights[j]);
  }
  best = join(best, Larger());
  const float base = base_of(best);
  float sum = 0.0F;
#pragma unroll
  for (int j = 0; j < kTileKeys; j += 8) {
    const float weight = exp2f((weights[j] - base) * scale_log2);
    weights[j] = weight;
    sum += weight;
  }
  sum = join(sum, Plus());
  __syncwarp();
  if (threadIdx.x % 8 == 0) {
    const float before = exp2f((top - best) * scale_log2);
    s.before[row] = before;
    s.top[row] = best;
    s.total[row] = fmaf(s.total[row], before, sum);
  }
  __syncthreads();
}

template <class T, class Keys>
__device__ void add_values(const AttentionCall<T>& call, const Keys& keys, int key,
                           const Seen& seen, const SimtShared& s, SimtColumns& columns) {
#pragma unroll
  for (int i = 0; i < kSimtRows; ++i) {
    columns.values[i][0] *= s.before[i];
    columns.values[i][1] *= s.before[i];
  }
  const int begin = max(seen.least_first - key, 0);
  const int end = min(seen.most_last - key, kTileKeys);
  for (int j = begin; j < end; ++j) {
    const T* const from = keys.value(key + j);
    float value[2];
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      value[c] = simt_column(c) < call.v_dim ? load(from + simt_column(c)) : 0.0F;
    }
#pragma unroll
    for (int i = 0; i < kSimtRows; ++i) {
      columns.values[i][0] = fmaf(s.weights[i][j], value[0], columns.values[i][0]);
      columns.values[i][1] = fmaf(s.weights[i][j], value[1], columns.values[i][1]);
    }
  }
}

/// Takes the rows through the tiles of keys from `begin` on.
template <class T, class Keys>
__device__ void attend_tiles(const AttentionCall<T>& call, const QueryTile& tile, const Keys& keys,
                             float scale_log2, int begin, const Seen& seen, SimtShared& s,
                             SimtColumns& columns) {
  for (int key = begin; key < seen.most_last; key += kTileKeys) {
    score_keys(call, tile, keys, key, seen, s);
    soften(scale_log2, s);
    add_values(call, keys, key, seen, s, columns);
  }
  __syncthreads();
}

/// Calls work(query, place) with the queries of the tile.
template <class T, class Work>
__device__ __forceinline__ void for_rows(const AttentionCall<T>& call, const QueryTile& tile,
                                         const Work& work) {
#pragma unroll
  for (int i = 0; i < kSimtRows; ++i) {
    if (i < tile.count) {
      const std::int64_t row = tile.row_of(i);
      work(i, row * call.heads + tile.head_of(i));
    }
  }
}

/// No sums. Others see it behind a barrier.
__device__ __forceinline__ void clear(SimtShared& s, SimtColumns& columns) {
#pragma unroll
  for (int i = 0; i < kSimtRows; ++i) {
    columns.values[i][0] = 0.0F;
    columns.values[i][1] = 0.0F;
  }
  if (threadIdx.x < kSimtRows) {
    s.top[threadIdx.x] = kMasked;
    s.total[threadIdx.x] = 0.0F;
  }
}

/// Sums so far, if there are any. Ends with a barrier.
template <class T>
__device__ void take_over(const AttentionCall<T>& call, const QueryTile& tile, SimtShared& s,
                          SimtColumns& columns) {
  if (call.to.values != nullptr && call.to.adds) {
    const int own = static_cast<int>(threadIdx.x);
    if (own < tile.count) {
      const std::int64_t row = tile.row_of(own);
      s.top[own] = call.to.before_top[row * call.heads + tile.head_of(own)];
      s.total[own] = call.to.before_total[row * call.heads + tile.head_of(own)];
    }
    for_rows(call, tile, [&](int i, std::int64_t place) {
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        if (simt_column(c) < call.v_dim) {
          columns.values[i][c] = call.to.values[place * call.v_dim + simt_column(c)];
        }
      }
    });
  }
  __syncthreads();
}

/// The sums become those with the sums that are there.
template <class T>
__device__ void join_rows(const AttentionCall<T>& call, const QueryTile& tile, float scale_log2,
                          SimtShared& s, SimtColumns& columns) {
  const AttentionTarget<T>& with = call.to;
  for_rows(call, tile, [&](int i, std::int64_t place) {
    const Joined joined = join_tops(with.before_top[place], s.top[i], scale_log2);
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      if (simt_column(c) < call.v_dim) {
        columns.values[i][c] = join_sums(with.values[place * call.v_dim + simt_column(c)],
                                         columns.values[i][c], joined);
      }
    }
  });
  __syncthreads();
  const int own = static_cast<int>(threadIdx.x);
  if (own < tile.count) {
    const std::int64_t row = tile.row_of(own);
    const std::int64_t place = row * call.heads + tile.head_of(own);
    const Joined joined = join_tops(with.before_top[place], s.top[own], scale_log2);
    s.total[own] = join_sums(with.before_total[place], s.total[own], joined);
    s.top[own] = joined.top;
  }
  __syncthreads();
}

/// Sums, or out and lse. `apart`: places between these sums and the first ones.
template <class T>
__device__ void hand_over(const AttentionCall<T>& call, const QueryTile& tile, std::int64_t apart,
                          const SimtShared& s, const SimtColumns& columns) {
  const AttentionTarget<T>& to = call.to;
  const bool sums = to.values != nullptr;
  const bool speaks = blockIdx.y == 0 && threadIdx.x == 0;
  for_rows(call, tile, [&](int i, std::int64_t place) {
    place += apart;
    const float inverse = sums ? 1.0F : inverse_of(s.top[i], s.total[i]);
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      const std::int64_t at = place * call.v_dim + simt_column(c);
      if (simt_column(c) < call.v_dim && sums) {
        to.values[at] = columns.values[i][c];
      } else if (simt_column(c) < call.v_dim) {
        store(to.out + at, columns.values[i][c] * inverse);
      }
    }
    if (speaks && sums) {
      to.top[place] = s.top[i];
      to.total[place] = s.total[i];
    } else if (speaks) {
      to.lse[place] = lse_of(s.top[i], s.total[i], call.scale);
    }
  });
}

}  // namespace moesaic::cuda
