#pragma once

#include "backend/cuda/device/attention_gradient.cuh"

// The backward pass without matrix units. A block has 16 rows (keys, or queries) and 256 columns of
// one gradient; a thread computes scores of eight rows with one of 64 columns, and has two columns
// of the gradient of all rows.
namespace moesaic::cuda {

constexpr int kPlainRows = 16;
constexpr int kPlainThreads = 128;
constexpr int kPlainColumns = 2 * kPlainThreads;
constexpr int kPlainPiece = 32;
constexpr int kPlainHalf = kPlainRows / (kPlainThreads / kGradientTile);

struct PlainShared {
  TileFacts facts;
  float rows[kPlainRows][kPlainPiece];
  float columns[kGradientTile][kPlainPiece + 1];
  float weights[kPlainRows][kGradientTile];
};

/// Products of eight rows with the thread's column.
template <class T>
__device__ void multiply_plainly(const T* rows, std::int64_t row_step, int row_count,
                                 const T* columns, std::int64_t column_step, int column_count,
                                 int dim, PlainShared& s, float (&products)[kPlainHalf]) {
  const int thread = static_cast<int>(threadIdx.x);
  const int own = thread % kGradientTile;
  const int first = thread / kGradientTile * kPlainHalf;
#pragma unroll
  for (int i = 0; i < kPlainHalf; ++i) {
    products[i] = 0.0F;
  }
  for (int piece = 0; piece < dim; piece += kPlainPiece) {
    const int at = piece + thread % kPlainPiece;
    for (int i = thread / kPlainPiece; i < kPlainRows; i += kPlainThreads / kPlainPiece) {
      s.rows[i][thread % kPlainPiece] =
          i < row_count && at < dim ? load(rows + i * row_step + at) : 0.0F;
    }
    for (int i = thread / kPlainPiece; i < kGradientTile; i += kPlainThreads / kPlainPiece) {
      s.columns[i][thread % kPlainPiece] =
          i < column_count && at < dim ? load(columns + i * column_step + at) : 0.0F;
    }
    __syncthreads();
#pragma unroll 8
    for (int c = 0; c < kPlainPiece; ++c) {
#pragma unroll
      for (int i = 0; i < kPlainHalf; ++i) {
        products[i] = fmaf(s.rows[first + i][c], s.columns[own][c], products[i]);
      }
    }
    __syncthreads();
  }
}

/// P, or dS, of the block's rows with a tile of columns. KeyRows: rows are keys. Begins and ends
/// with barriers.
template <bool KeyRows, class T>
__device__ void plain_weights(const AttentionCall<T>& call, const Rows<T>& rows,
                              const Rows<T>& columns, int key, bool wants_ds, PlainShared& s) {
  float scores[kPlainHalf];
  float dp[kPlainHalf] = {};
  multiply_plainly(rows.a, rows.a_step, rows.count, columns.a, columns.a_step, columns.count,
                   call.head_dim, s, scores);
  if (wants_ds) {
    multiply_plainly(rows.b, rows.b_step, rows.count, columns.b, columns.b_step, columns.count,
                     call.v_dim, s, dp);
  }
  const int own = static_cast<int>(threadIdx.x) % kGradientTile;
  const int first = static_cast<int>(threadIdx.x) / kGradientTile * kPlainHalf;
#pragma unroll
  for (int i = 0; i < kPlainHalf; ++i) {
    const int query = KeyRows ? own : first + i;
    const int here = key + (KeyRows ? first + i : own);
    const bool sees = here >= s.facts.first[query] && here < s.facts.last[query];
    const float p = sees ? exp2f(fmaf(scores[i], call.scale * kLog2E, -s.facts.base[query])) : 0.0F;
    const Weights weights = weights_of(p, dp[i], s.facts.delta[query], call.scale);
    s.weights[first + i][own] = wants_ds ? weights.ds : weights.p;
  }
  __syncthreads();
}

/// Columns of a gradient of a thread: the first and the one kPlainThreads later.
struct PlainGradient {
  float sums[kPlainRows][2];
  int column;  // the first
  int dim;

  __device__ void clear() {
#pragma unroll
    for (int i = 0; i < kPlainRows; ++i) {
      sums[i][0] = 0.0F;
      sums[i][1] = 0.0F;
    }
  }
  /// Adds the block's weights times rows.
  template <class T>
  __device__ void add(const PlainShared& s, const T* from, std::int64_t step, int count) {
    for (int j = 0; j < count; ++j) {
      float value[2];
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        const int at = column + c * kPlainThreads;
        value[c] = at < dim ? load(from + j * step + at) : 0.0F;
      }
#pragma unroll
      for (int i = 0; i < kPlainRows; ++i) {
        sums[i][0] = fmaf(s.weights[i][j], value[0], sums[i][0]);
        sums[i][1] = fmaf(s.weights[i][j], value[1], sums[i][1]);
      }
    }
  }
  template <class T>
  __device__ void write(const GradientTarget<T>& to, std::int64_t first, int rows, int head) const {
#pragma unroll
    for (int i = 0; i < kPlainRows; ++i) {
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        const int at = column + c * kPlainThreads;
        if (i < rows && at < dim) {
          to.write(to.place_of(first + i, head, at), sums[i][c]);
        }
      }
    }
  }
};

}  // namespace moesaic::cuda
