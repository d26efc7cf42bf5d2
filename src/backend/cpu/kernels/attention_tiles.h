#pragma once

// What both directions of attention need: tiles of kTile queries by kTile keys and the products of
// their rows, which advance by words as those of matmul.h. On the diagonal work goes by strips of
// sixteen rows, so that little more than the half that causality leaves is computed.
#include "backend/cpu/kernels/instruction_set_kernels.h"
#include "backend/cpu/kernels/steps.h"

namespace moesaic::cpu::MOESAIC_ISA {
namespace {

constexpr Index kTile = kAttentionTile;
constexpr Index kStrip = kLanes;
constexpr Index kAhead = 16;  // rows that are on their way while one is loaded
constexpr float kMasked = -1e30F;
constexpr float kLog2E = 1.44269504089F;

// The widest block of sums that the registers hold next to six rows.
constexpr int kBlockVectors = MOESAIC_TILE_VECTORS == 1 ? 1 : 4;

// Rows of a block so wide: enough sums to hide how long one takes.
constexpr int rows_of_block(int vectors) {
  if (kBlockVectors == 1 || vectors == 4) {
    return 6;
  }
  return vectors == 1 ? 16 : 8;
}

// What a product does with what c holds.
enum class Into { kOverwrite, kAdd, kScaleAndAdd };

/// c (rows, columns) = a (rows, words) b (words, columns), or added to c, or to c after each of its
/// rows was multiplied by its factor. a has any strides; columns is a multiple of 16. Each element
/// is one sum in the order of words, whatever else is computed.
struct Product {
  const Word* a;
  Index a_row, a_word;
  const Word* b;
  Index ldb;
  float* c;
  Index ldc;
  Index rows, columns, words;
  Into into;
  const float* factor = nullptr;
};

template <class Step, int M, int N>
inline void multiply_block(const Product& p, Index row, Index column) {
  constexpr int kRegisters = N * kLanes / kRegister;
  FR sums[M][kRegisters];  // in registers, as all loops over them are unrolled
  const Word* a = p.a + row * p.a_row;
  const Word* b = p.b + column;
  float* c = p.c + row * p.ldc + column;
#pragma GCC unroll 16
  for (int i = 0; i < M; ++i) {
    const float factor = p.into == Into::kScaleAndAdd ? p.factor[row + i] : 1.0F;
#pragma GCC unroll 16
    for (int j = 0; j < kRegisters; ++j) {
      sums[i][j] = p.into == Into::kOverwrite
                       ? FR{}
                       : load_register<FR>(c + i * p.ldc + j * kRegister) * factor;
    }
  }
  for (Index k = 0; k < p.words; ++k, b += p.ldb, a += p.a_word) {
    UR columns[kRegisters];
#pragma GCC unroll 16
    for (int j = 0; j < kRegisters; ++j) {
      columns[j] = load_register<UR>(b + j * kRegister);
    }
#pragma GCC unroll 16
    for (int i = 0; i < M; ++i) {
      const UR element = splat_word(a[i * p.a_row]);
#pragma GCC unroll 16
      for (int j = 0; j < kRegisters; ++j) {
        sums[i][j] = Step::step(sums[i][j], element, columns[j]);
      }
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < M; ++i) {
#pragma GCC unroll 16
    for (int j = 0; j < kRegisters; ++j) {
      store_register(c + i * p.ldc + j * kRegister, sums[i][j]);
    }
  }
}

template <class Step, int N>
inline void multiply_column(const Product& p, Index column) {
  constexpr int kRows = rows_of_block(N);
  Index row = 0;
  for (; row + kRows <= p.rows; row += kRows) {
    multiply_block<Step, kRows, N>(p, row, column);
  }
  for (; row + 4 <= p.rows; row += 4) {
    multiply_block<Step, 4, N>(p, row, column);
  }
  for (; row < p.rows; ++row) {
    multiply_block<Step, 1, N>(p, row, column);
  }
}

template <class Step, int N = kBlockVectors>
void multiply(const Product& p, Index column = 0) {
  for (; column + N * kLanes <= p.columns; column += N * kLanes) {
    multiply_column<Step, N>(p, column);
  }
  if constexpr (N > 1) {
    multiply<Step, N - 1>(p, column);
  }
}

void clear(float* p, Index n) { std::memset(p, 0, static_cast<std::size_t>(n) * sizeof(float)); }

/// The first key of the tile in which a key lies; tiles are counted from origin.
constexpr Index first_tile(Index key, Index origin = 0) {
  return origin + (key - origin) / kTile * kTile;
}

/// Words of a row that load_rows writes, with zeros at the end.
template <class Step>
constexpr Index row_words(Index dim) {
  return round_up(words_of<Step>(dim));
}

/// Rows of a head in words along dim: (rows, row_words). Prefetches later rows: the
/// processor does not foresee such strides.
template <class Step, class A>
void load_rows(const A* from, Index stride, Word* to, Index rows, Index dim) {
  for (Index t = 0; t < rows; ++t) {
    for (Index w = 0; w < words_of<Step>(dim); w += kLanes, to += kLanes) {
      const A* here = from + t * stride + w * Step::kElements;
      __builtin_prefetch(here + kAhead * stride);
      store_words(to, Step::along(here, dim - w * Step::kElements));
    }
  }
}

/// Rows of a head in words across the rows: (words, padded dim), with zeros for what is missing.
template <class Step, class A>
void load_across(const A* from, Index stride, Word* to, Index rows, Index dim) {
  for (Index t = 0; t < rows; t += Step::kElements) {
    for (Index i = 0; i < dim; i += kLanes, to += kLanes) {
      __builtin_prefetch(from + (t + kAhead) * stride + i);
      store_words(to, Step::across(from + t * stride + i, stride, dim - i, rows - t));
    }
  }
}

/// Rows in words along dim, transposed: (row_words, kTile), with zeros for the missing rows; row(t)
/// points at row t.
template <class Step, class Row>
void load_columns(const Row& row, Word* to, Index rows, Index dim) {
  for (Index w = 0; w < words_of<Step>(dim); w += kLanes) {
    const Index i = w * Step::kElements;
    for (Index t = 0; t < kTile; t += kLanes) {
      U16 block[kLanes];
      for (Index j = 0; j < kLanes; ++j) {
        block[j] = t + j < rows ? Step::along(row(t + j) + i, dim - i) : U16{};
      }
      transpose(block);
      for (Index j = 0; j < kLanes; ++j) {
        store_words(to + (w + j) * kTile + t, block[j]);
      }
    }
  }
}

/// Those of load_rows.
template <class Step, class A>
void load_columns(const A* from, Index stride, Word* to, Index rows, Index dim) {
  load_columns<Step>([=](Index t) { return from + t * stride; }, to, rows, dim);
}

constexpr I16 kLane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

inline I16 splat_index(Index value) { return static_cast<std::int32_t>(value) - I16{}; }

}  // namespace
}  // namespace moesaic::cpu::MOESAIC_ISA
