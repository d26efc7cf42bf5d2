#pragma once

// What both directions of attention need: tiles of kTile queries by kTile keys and the products of
// their rows. Work goes by strips of sixteen rows, so that of a tile on the diagonal little more
// than the half that causality leaves is computed.
#include "backend/cpu/kernels/families.h"
#include "backend/cpu/kernels/simd.h"

namespace moesaic::cpu::MOESAIC_ISA {
namespace {

constexpr Index kTile = kAttentionTile;
constexpr Index kStrip = kLanes;
constexpr Index kAhead = 16;  // rows that are on their way while one is loaded
constexpr float kMasked = -1e30F;

// The widest block of sums that the registers hold next to six rows.
constexpr int kBlockVectors = MOESAIC_TILE_VECTORS == 1 ? 1 : 4;

// What a product does with what c holds.
enum class Into { kOverwrite, kAdd, kScaleAndAdd };

/// c (rows, columns) = a (rows, depth) b (depth, columns), or added to c, or to c after each of its
/// rows was multiplied by its factor. a has any strides; columns is a multiple of 16.
struct Product {
  const float* a;
  Index a_row, a_col;
  const float* b;
  Index ldb;
  float* c;
  Index ldc;
  Index rows, columns, depth;
  Into into;
  const float* factor = nullptr;
};

template <int M, int N>
inline void multiply_block(const Product& p, Index row, Index column) {
  F16 sums[M][N];
  const float* a = p.a + row * p.a_row;
  const float* b = p.b + column;
  float* c = p.c + row * p.ldc + column;
  for (int i = 0; i < M; ++i) {
    const float factor = p.into == Into::kScaleAndAdd ? p.factor[row + i] : 1.0F;
    for (int j = 0; j < N; ++j) {
      sums[i][j] = p.into == Into::kOverwrite ? F16{} : load(c + i * p.ldc + j * kLanes) * factor;
    }
  }
  for (Index k = 0; k < p.depth; ++k, b += p.ldb, a += p.a_col) {
    F16 columns[N];
    for (int j = 0; j < N; ++j) {
      columns[j] = load(b + j * kLanes);
    }
    for (int i = 0; i < M; ++i) {
      const F16 element = splat(a[i * p.a_row]);
      for (int j = 0; j < N; ++j) {
        sums[i][j] += element * columns[j];
      }
    }
  }
  for (int i = 0; i < M; ++i) {
    for (int j = 0; j < N; ++j) {
      store(c + i * p.ldc + j * kLanes, sums[i][j]);
    }
  }
}

template <int M, int N = kBlockVectors>
inline void multiply_rows(const Product& p, Index row, Index column = 0) {
  for (; column + N * kLanes <= p.columns; column += N * kLanes) {
    multiply_block<M, N>(p, row, column);
  }
  if constexpr (N > 1) {
    multiply_rows<M, N - 1>(p, row, column);
  }
}

void multiply(const Product& p) {
  Index row = 0;
  for (; row + 6 <= p.rows; row += 6) {
    multiply_rows<6>(p, row);
  }
  for (; row + 4 <= p.rows; row += 4) {
    multiply_rows<4>(p, row);
  }
  for (; row < p.rows; ++row) {
    multiply_rows<1>(p, row);
  }
}

/// Keys of the tile at `key` that the sixteen queries from `query` on see, all together.
constexpr Index keys_seen(Index query, Index key, Index keys) {
  return smaller(keys, query + kStrip - key);
}
/// The first strip of queries, from that of the tile at `query` on, that sees the keys from `key`
/// on; counted in queries.
constexpr Index first_strip(Index query, Index key) { return larger(0, key - query); }

void clear(float* p, Index n) { std::memset(p, 0, static_cast<std::size_t>(n) * sizeof(float)); }

/// The first key of the tile in which a key lies.
constexpr Index first_tile(Index key) { return key / kTile * kTile; }

// Rows of a head as floats times a factor, padded with zeros to `padded` columns. Later rows are
// called from memory, which does not foresee such strides.
template <class A>
void load_rows(const A* from, Index stride, float factor, float* to, Index rows, Index dim,
               Index padded) {
  for (Index t = 0; t < rows; ++t) {
    for (Index i = 0; i < padded; i += kLanes) {
      __builtin_prefetch(from + (t + kAhead) * stride + i);
      store(to + t * padded + i, load(from + t * stride + i, dim - i) * factor);
    }
  }
}

// Likewise transposed, (padded, kTile), with zeros for the missing rows.
template <class A>
void load_columns(const A* from, Index stride, float factor, float* to, Index rows, Index dim) {
  for (Index i = 0; i < dim; i += kLanes) {
    for (Index t = 0; t < kTile; t += kLanes) {
      U16 block[kLanes];
      for (Index j = 0; j < kLanes; ++j) {
        block[j] = t + j < rows
                       ? reinterpret_cast<U16>(load(from + (t + j) * stride + i, dim - i) * factor)
                       : U16{};
      }
      transpose(block);
      for (Index j = 0; j < kLanes; ++j) {
        store(to + (i + j) * kTile + t, reinterpret_cast<F16>(block[j]));
      }
    }
  }
}

constexpr I16 kLane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

inline I16 splat_index(Index value) { return static_cast<std::int32_t>(value) - I16{}; }

}  // namespace
}  // namespace moesaic::cpu::MOESAIC_ISA
