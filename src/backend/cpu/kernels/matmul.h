#pragma once

// c = op(a) op(b) by packed tiles (Goto & van de Geijn 2008). A tile of c, kTileRows x
// kTileColumns, stays in registers while the inner product runs over words: a word is one fp32
// number, or two bf16 ones where the processor has bf16 dot products. b is packed in panels of
// kTileColumns columns, as many as the second-level cache holds; a tile's rows of a are packed into
// the first-level cache right before they meet all panels. Each element of c is one sum in the
// order of k, so neither threads nor the place of a row among others change a result.
#include "backend/cpu/kernels/instruction_set_kernels.h"
#include "backend/cpu/kernels/steps.h"

namespace moesaic::cpu::MOESAIC_ISA {
namespace {

constexpr int kTileRows = MOESAIC_TILE_ROWS;
constexpr int kVectors = MOESAIC_TILE_VECTORS;
constexpr Index kTileColumns = kVectors * kLanes;
constexpr Index kAhead = 8;        // rows of memory that are on their way while one is packed
constexpr Index kDepth = 512;      // words of a tile's rows that are packed at once
constexpr Index kColumnTiles = 8;  // tiles of rows that are packed at once from columns
constexpr Index kPackedTile = kTileRows * kDepth + kLanes;
static_assert(kTileColumns <= kGemmColumns);
static_assert(kColumnTiles * kPackedTile <= kGemmRowWords);
static_assert(kTileRows * kGemmPanels * kTileColumns <= kGemmTileWords);

/// kTileColumns columns of op(b), of which n exist: out [words][kTileColumns].
template <class Step, class A>
void pack_panel(const A* b, Index ldb, bool transposed, Index depth, Index n, Word* out) {
  const Index words = words_of<Step>(depth);
  for (int v = 0; v < kVectors; ++v, out += kLanes) {
    const Index columns = smaller(larger(n - v * kLanes, 0), kLanes);
    if (!transposed) {
      const A* from = b + v * kLanes;
      for (Index k = 0; k < words; ++k, from += Step::kElements * ldb) {
        __builtin_prefetch(from + kAhead * ldb);
        store_words(
            out + k * kTileColumns,
            columns > 0 ? Step::across(from, ldb, columns, depth - k * Step::kElements) : U16{});
      }
      continue;
    }
    for (Index k = 0; k < words; k += kLanes) {
      U16 block[kLanes];
      for (Index j = 0; j < kLanes; ++j) {
        __builtin_prefetch(b + (v * kLanes + j + kLanes) * ldb + k * Step::kElements);
        block[j] = j < columns ? Step::along(b + (v * kLanes + j) * ldb + k * Step::kElements,
                                             depth - k * Step::kElements)
                               : U16{};
      }
      transpose(block);
      for (Index i = 0; i < smaller(kLanes, words - k); ++i) {
        store_words(out + (k + i) * kTileColumns, block[i]);
      }
    }
  }
}

/// A tile's rows of a, stored along k: out, for each 16 words, [M][16].
template <class Step, int M, class A>
void pack_rows(const A* a, Index lda, Index rows, Index depth, Word* out) {
  for (Index k = 0; k < depth; k += kLanes * Step::kElements) {
    for (Index i = 0; i < M; ++i, out += kLanes) {
      store_words(out, i < rows ? Step::along(a + i * lda + k, depth - k) : U16{});
    }
  }
}

/// The height of the tile that holds the last `rows` of c.
constexpr Index height_of(Index rows) { return smaller(kTileRows, (rows + 1) / 2 * 2); }

/// The same for the tiles of `rows` rows where a is stored across k (transposed): for each tile
/// [words][height], and up to 16 words behind it. `exist`: elements to the end of a row of memory.
template <class Step, class A>
void pack_columns(const A* a, Index lda, Index exist, Index rows, Index depth, Word* out) {
  for (Index k = 0, word = 0; k < depth; k += Step::kElements, ++word, a += Step::kElements * lda) {
    Word* to = out;
    for (Index row = 0; row < rows; row += kTileRows, to += kPackedTile) {
      __builtin_prefetch(a + kAhead * lda + row);
      store_words(to + word * height_of(rows - row),
                  Step::across(a + row, lda, exist - row, depth - k));
    }
  }
}

/// c [M][kTileColumns] = or += a b, with a as packed by rows (16, 1) or by columns (1, M).
template <class Step, int M, Index kRow, Index kColumn>
void multiply_tile(const Word* a, const Word* b, Index words, float* c, bool add) {
  constexpr int kRegisters = kTileColumns / kRegister;
  FR sums[M][kRegisters];  // in registers, as all loops over them are unrolled
#pragma GCC unroll 16
  for (int i = 0; i < M; ++i) {
#pragma GCC unroll 16
    for (int j = 0; j < kRegisters; ++j) {
      sums[i][j] = add ? load_register<FR>(c + i * kTileColumns + j * kRegister) : FR{};
    }
  }
  for (Index chunk = 0; chunk < words; chunk += kLanes, a += kLanes * M) {
    const Index end = smaller(kLanes, words - chunk);
    for (Index k = 0; k < end; ++k, b += kTileColumns) {
      UR columns[kRegisters];
#pragma GCC unroll 16
      for (int j = 0; j < kRegisters; ++j) {
        columns[j] = load_register<UR>(b + j * kRegister);
      }
#pragma GCC unroll 16
      for (int i = 0; i < M; ++i) {
        const UR row = splat_word(a[i * kRow + k * kColumn]);
#pragma GCC unroll 16
        for (int j = 0; j < kRegisters; ++j) {
          sums[i][j] = Step::step(sums[i][j], row, columns[j]);
        }
      }
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < M; ++i) {
#pragma GCC unroll 16
    for (int j = 0; j < kRegisters; ++j) {
      store_register(c + i * kTileColumns + j * kRegister, sums[i][j]);
    }
  }
}

template <class C>
void write_row(const float* from, C* to, Index n, bool add) {
  for (Index j = 0; j < n; j += kLanes) {
    F16 v = load(from + j);
    if (add) {
      v += load(to + j, n - j);
    }
    store(to + j, v, n - j);
  }
}

/// Buffers of one thread, parts of `scratch`.
struct Packed {
  Word* b;       // panels
  Word* a;       // rows of kColumnTiles tiles
  float* tiles;  // results of one row of tiles
};

/// What a row of tiles takes part in: columns [column, column + columns) of c and terms
/// [k, k + depth) of its sums.
struct Part {
  Index column, columns, k, depth;
  bool add;
};

/// Multiplies the packed rows of one tile with all panels, from word `begin` on; where the sums
/// end, they are written to c, which is prefetched meanwhile.
template <class Step, int M, Index kRow, Index kColumn, class C>
void multiply_row(const Word* a, const Packed& packed, const Part& part, Index begin, Index words,
                  C* c, Index ldc, Index rows) {
  const Index all_words = words_of<Step>(part.depth);
  const bool last = begin + words == all_words;
  const Word* b = packed.b + begin * kTileColumns;
  float* tile = packed.tiles;
  for (Index j = 0; j < part.columns; j += kTileColumns) {
    for (Index i = 0; last && i < rows; ++i) {
      __builtin_prefetch(c + i * ldc + j, 1);
      __builtin_prefetch(c + i * ldc + j + kLanes, 1);
    }
    multiply_tile<Step, M, kRow, kColumn>(a, b, words, tile, begin > 0);
    for (Index i = 0; last && i < rows; ++i) {
      write_row(tile + i * kTileColumns, c + i * ldc + j, smaller(kTileColumns, part.columns - j),
                part.add);
    }
    b += all_words * kTileColumns;
    tile += M * kTileColumns;
  }
}

/// One row of tiles, of height M; `row`: its first row of c. packed_a: its rows, if packed.
template <class Step, int M, class A, class C>
void tile_row(const Gemm<A, C>& g, Index row, const Part& part, const Packed& packed,
              const Word* packed_a) {
  const Index rows = smaller(M, g.m - row);
  C* c = g.c + row * g.ldc + part.column;
  if (packed_a != nullptr) {
    multiply_row<Step, M, 1, M>(packed_a, packed, part, 0, words_of<Step>(part.depth), c, g.ldc,
                                rows);
    return;
  }
  for (Index k = 0; k == 0 || k < part.depth; k += kDepth * Step::kElements) {
    const Index depth = smaller(kDepth * Step::kElements, part.depth - k);
    const Index words = words_of<Step>(depth);
    const Index begin = k / Step::kElements;
    if (g.ta) {
      pack_columns<Step>(g.a + (part.k + k) * g.lda + row, g.lda, g.m - row, rows, depth, packed.a);
      multiply_row<Step, M, 1, M>(packed.a, packed, part, begin, words, c, g.ldc, rows);
    } else {
      pack_rows<Step, M>(g.a + row * g.lda + part.k + k, g.lda, rows, depth, packed.a);
      multiply_row<Step, M, kLanes, 1>(packed.a, packed, part, begin, words, c, g.ldc, rows);
    }
  }
}

/// With the lowest tile that holds the rest of the rows.
template <class Step, int M, class A, class C>
void lowest_tile_row(const Gemm<A, C>& g, Index row, const Part& part, const Packed& packed,
                     const Word* packed_a) {
  if constexpr (M > 2) {
    if (g.m - row <= M - 2) {
      lowest_tile_row<Step, M - 2>(g, row, part, packed, packed_a);
      return;
    }
  }
  tile_row<Step, M>(g, row, part, packed, packed_a);
}

/// All rows of c. Where a lies across k, several tiles are packed at once, as their elements are
/// neighbours in memory.
template <class Step, class A, class C>
void all_rows(const Gemm<A, C>& g, const Part& part, const Packed& packed) {
  const bool together = g.ta && part.depth <= kDepth * Step::kElements;
  const Index block = together ? kColumnTiles * kTileRows : g.m;
  for (Index first = 0; first < g.m; first += block) {
    const Index end = smaller(first + block, g.m);
    if (together) {
      pack_columns<Step>(g.a + part.k * g.lda + first, g.lda, g.m - first, end - first, part.depth,
                         packed.a);
    }
    const Word* a = packed.a;
    for (Index row = first; row < end; row += kTileRows, a += kPackedTile) {
      lowest_tile_row<Step, kTileRows>(g, row, part, packed, together ? a : nullptr);
    }
  }
}

template <class Step, class A, class C>
void multiply(const Gemm<A, C>& g, void* scratch) {
  // A long sum is cut, unless c is narrower than the sum.
  const Index all = larger(g.k, 1);
  const Index longest = sizeof(C) == sizeof(float) ? smaller(all, kDepth * Step::kElements) : all;
  const Index panels = larger(kGemmPanelWords / kTileColumns * Step::kElements / longest, 1);
  const Index block = smaller(panels, kGemmPanels) * kTileColumns;
  auto* const words = static_cast<Word*>(scratch);
  const Packed packed{words + kGemmTileWords + kGemmRowWords, words + kGemmTileWords,
                      reinterpret_cast<float*>(words)};
  for (Index k = 0; k == 0 || k < g.k; k += longest) {
    const Index depth = smaller(longest, g.k - k);
    const Index panel_words = words_of<Step>(depth) * kTileColumns;
    for (Index column = 0; column < g.n; column += block) {
      const Index columns = smaller(block, g.n - column);
      for (Index j = 0; j < columns; j += kTileColumns) {
        const A* b = g.tb ? g.b + (column + j) * g.ldb + k : g.b + k * g.ldb + column + j;
        pack_panel<Step>(b, g.ldb, g.tb, depth, columns - j,
                         packed.b + j / kTileColumns * panel_words);
      }
      all_rows<Step>(g, {column, columns, k, depth, g.add || k > 0}, packed);
    }
  }
}

}  // namespace
}  // namespace moesaic::cpu::MOESAIC_ISA
