#pragma once

// y = x w^T with packed weights (packed_layout.h). The rows of x become numbers of the weights'
// kind once: bf16, or int8 with a scale for each row and block of 256 along k,
//   x = c a,  c = max |x| / 127;    x . w = sum over blocks of c d (a . u - 128 sum of a),
// where the bracket is a sum of integers: exact in any order, so that a row has the same bits in
// every tile and on every instruction set. It becomes a float once for each block, in order of k.
// A tile, M rows of x and V registers of rows of w, stays in registers; the fewer rows of x, the
// more of w. A register holds a row of words of a panel, or half of one.
#include "backend/cpu/kernels/kernels.h"
#include "backend/cpu/kernels/simd.h"

namespace moesaic::cpu::MOESAIC_ISA {
namespace {

using Word = std::uint32_t;

constexpr Index kWidth = kOneRegister ? 16 : 8;  // numbers of a register
constexpr Index kParts = kLanes / kWidth;        // registers of a panel
using Floats = float __attribute__((vector_size(4 * kWidth)));
using Integers = std::int32_t __attribute__((vector_size(4 * kWidth)));
using Words = std::uint32_t __attribute__((vector_size(4 * kWidth)));
using Halves = std::uint16_t __attribute__((vector_size(4 * kWidth)));
using Bytes = std::uint8_t __attribute__((vector_size(4 * kWidth)));
using PairsOfBytes = std::uint16_t __attribute__((vector_size(2 * kWidth)));

constexpr Index kChunk = kLanes;  // words of a row of x that lie together
constexpr Index kChunkBytes = 4 * kChunk;
constexpr Index kAheadBytes = 2048;             // of a panel that are prefetched
constexpr Index kCachedWords = Index{1} << 17;  // of rows of x

template <class V>
V load_as(const std::byte* p) {
  V v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

/// Registers of w of a tile of M rows.
template <int M>
constexpr int registers_of() {
  return kOneRegister ? (M <= 4 ? 4 : 2) : (M <= 2 ? 4 : 2);
}

/// Where the registers of a tile come from. Panels behind the last one are the last one again.
/// Memory is asked for what is read kAheadBytes later: of the same panel, or of one of the next
/// tile.
template <int V>
struct Panels {
  const std::byte* at[V];
  const std::byte* end;  // of the first panel
  Index skip;            // from there to the first of the next tile

  Panels(const std::byte* first, Index panels, Index bytes)
      : end(first + bytes), skip((V / kParts - 1) * bytes) {
    for (int v = 0; v < V; ++v) {
      at[v] = first + smaller(v / kParts, panels - 1) * bytes + v % kParts * 4 * kWidth;
    }
  }
  Index ahead() const { return end - at[0] > kAheadBytes ? kAheadBytes : kAheadBytes + skip; }

  void advance(Index bytes) {
    for (int v = 0; v < V; ++v) {
      at[v] += bytes;
    }
  }
};

/// The rows of x of a tile, as lay_out makes them.
struct TileRows {
  const Word* words;        // [chunk][M][kChunk]
  const float* scale;       // (M, blocks)
  const std::int32_t* sum;  // (M, blocks)
};

/// A word is two numbers of k.
struct Bf16 {
  static constexpr DType kFormat = DType::kBf16;
};

/// A word is four numbers of k.
struct Int8 {
  static constexpr DType kFormat = DType::kInt8;

  template <int V>
  struct Block {
    Panels<V> words;
    Index ahead = 0;

    explicit Block(const Panels<V>& panels, Index /*groups*/) : words(panels) {
      words.advance(kPackedScaleBytes);
    }
    void next_group() { ahead = words.ahead(); }
    void next_pair(Words (&first)[V], Words (&second)[V]) {
      for (int v = 0; v < V; ++v) {
        if (v % kParts == 0) {
          __builtin_prefetch(words.at[v] + ahead);
          __builtin_prefetch(words.at[v] + ahead + kChunkBytes);
        }
        first[v] = load_as<Words>(words.at[v]);
        second[v] = load_as<Words>(words.at[v] + kChunkBytes);
      }
      words.advance(2 * kChunkBytes);
    }
  };
};

/// Four bits become eight in registers: both numbers of 16 bits are multiplied by s at once, since
/// q s does not carry into the upper byte.
struct Int4 {
  static constexpr DType kFormat = DType::kInt4;

  template <int V>
  struct Block {
    Panels<V> pairs, words;
    Halves factor[V];
    Bytes least[V];
    Index ahead = 0;

    explicit Block(const Panels<V>& panels, Index groups) : pairs(panels), words(panels) {
      words.advance(kPackedScaleBytes + groups * kPackedPairBytes);
      pairs.advance(kPackedScaleBytes);
      for (int v = 0; v < V; ++v) {
        pairs.at[v] -= v % kParts * 2 * kWidth;  // half as far apart as words
      }
    }
    void next_group() {
      for (int v = 0; v < V; ++v) {
        const auto wide = __builtin_convertvector(load_as<PairsOfBytes>(pairs.at[v]), Words);
        const Words s = wide & 0xffU;
        const Words m = (wide >> 8) * 0x01010101U;
        factor[v] = reinterpret_cast<Halves>(s | (s << 16));
        least[v] = reinterpret_cast<Bytes>(m);
      }
      pairs.advance(kPackedPairBytes);
      ahead = words.ahead();
    }
    void next_pair(Words (&first)[V], Words (&second)[V]) {
      for (int v = 0; v < V; ++v) {
        if (v % kParts == 0) {
          __builtin_prefetch(words.at[v] + ahead);
        }
        const Words nibbles = load_as<Words>(words.at[v]);
        first[v] = decoded(nibbles & 0x0f0f0f0fU, v);
        second[v] = decoded((nibbles >> 4) & 0x0f0f0f0fU, v);
      }
      words.advance(kChunkBytes);
    }
    Words decoded(Words q, int v) const {
      const Halves product = reinterpret_cast<Halves>(q) * factor[v];
      return reinterpret_cast<Words>(reinterpret_cast<Bytes>(product) + least[v]);
    }
  };
};

/// Dot::step(sum, u, a) adds the products of four bytes u with four signed bytes a in each lane.
template <class Dot, class Format, int M, int V>
void integer_tile(const TileRows& x, Panels<V> w, Index depth, Floats (&totals)[M][V]) {
  const Index blocks = (depth + kPackedBlock - 1) / kPackedBlock;
  for (int i = 0; i < M; ++i) {
    for (int v = 0; v < V; ++v) {
      totals[i][v] = Floats{};
    }
  }
  const Word* a = x.words;
  for (Index b = 0; b < blocks; ++b) {
    const Index groups = smaller(kPackedBlock, depth - b * kPackedBlock) / kPackedGroup;
    Integers sums[M][V];  // in registers, as all loops over them are unrolled
#pragma GCC unroll 16
    for (int i = 0; i < M; ++i) {
      for (int v = 0; v < V; ++v) {
        sums[i][v] = -128 * x.sum[i * blocks + b] - Integers{};
      }
    }
    typename Format::template Block<V> block(w, groups);
    for (Index g = 0; g < groups; ++g) {
      block.next_group();
      const Word* chunk = a + g / 2 * kChunk * M + g % 2 * 8;
      for (Index word = 0; word < 8; word += 2) {
        Words first[V];
        Words second[V];
        block.next_pair(first, second);
#pragma GCC unroll 16
        for (int i = 0; i < M; ++i) {
          const typename Dot::Row even(chunk[i * kChunk + word]);
          const typename Dot::Row odd(chunk[i * kChunk + word + 1]);
          for (int v = 0; v < V; ++v) {
            sums[i][v] = Dot::step(Dot::step(sums[i][v], first[v], even), second[v], odd);
          }
        }
      }
    }
    a += groups / 2 * kChunk * M;
    for (int v = 0; v < V; ++v) {
      const Floats scale = load_as<Floats>(w.at[v]);
#pragma GCC unroll 16
      for (int i = 0; i < M; ++i) {
        const Floats product =
            __builtin_convertvector(sums[i][v], Floats) * x.scale[i * blocks + b];
        totals[i][v] += product * scale;
      }
      w.at[v] = block.words.at[v];
    }
  }
}

/// Dot::step(sum, w, a) adds a dot product of two bf16 numbers each in every lane.
template <class Dot, int M, int V>
void bf16_tile(const TileRows& x, Panels<V> w, Index depth, Floats (&totals)[M][V]) {
  Floats sums[M][V] = {};
  const Word* chunk = x.words;
  for (Index k = 0; k < depth; k += 2 * kChunk, chunk += M * kChunk) {
    const Index ahead = w.ahead();
    for (Index word = 0; word < kChunk; ++word) {
      Words columns[V];
      for (int v = 0; v < V; ++v) {
        if (v % kParts == 0) {
          __builtin_prefetch(w.at[v] + ahead);
        }
        columns[v] = load_as<Words>(w.at[v]);
      }
      w.advance(kChunkBytes);
#pragma GCC unroll 16
      for (int i = 0; i < M; ++i) {
        const typename Dot::Row row(chunk[i * kChunk + word]);
        for (int v = 0; v < V; ++v) {
          sums[i][v] = Dot::step(sums[i][v], columns[v], row);
        }
      }
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < M; ++i) {
    for (int v = 0; v < V; ++v) {
      totals[i][v] = sums[i][v];
    }
  }
}

/// How the rows of a group lie in tiles: `count` of `height` rows, the last of `last`, which may be
/// more than exist.
struct Tiles {
  Index count, height, last;
};

constexpr Index even(Index n) { return (n + 1) / 2 * 2; }

/// Tiles of at most `highest` rows. Several tiles have as many panels each: none of them is low.
constexpr Tiles tiles_of(Index rows, Index highest) {
  constexpr Index kLow = kOneRegister ? 4 : 2;
  if (rows <= kLow) {
    return {rows > 0 ? 1 : 0, rows, rows};
  }
  const Index count = (rows + highest - 1) / highest;
  const Index height = larger(even((rows + count - 1) / count), kLow + 2);
  const Index full = (rows - 1) / height;
  return {full + 1, height, larger(even(rows - full * height), kLow + 2)};
}

/// What multiplies a tile, for all its rows and `panels` panels.
template <class C>
struct TileKernel {
  void (*run)(const PackedProduct<C>& product, const TileRows& x, Index row, const std::byte* w,
              Index panel_bytes, Index panel);
  Index panels;
};

/// w: panel `panel` of the product, of which others follow; row: the first of the tile.
template <class Engine, class Format, int M, class C>
void multiply_tile(const PackedProduct<C>& p, const TileRows& x, Index row, const std::byte* w,
                   Index panel_bytes, Index panel) {
  constexpr int V = registers_of<M>();
  Floats totals[M][V];
  Engine::template tile<Format, M, V>(x, Panels<V>(w, p.panels - panel, panel_bytes),
                                      packed_depth(p.columns), totals);
  C* const y = p.y + row * p.ldy + panel * kLanes;
  for (int i = 0; i < M; ++i) {
    for (int j = 0; j < V / kParts; ++j) {
      const Index n = p.n - (panel + j) * kLanes;
      if (row + i < p.rows && n > 0) {
        F16 lanes;
        std::memcpy(&lanes, &totals[i][j * kParts], sizeof lanes);
        store(y + i * p.ldy + j * kLanes, lanes, n);
      }
    }
  }
}

/// The kernel of the height, which is at most M.
template <class Engine, class Format, int M, class C>
TileKernel<C> tile_kernel(Index height) {
  if constexpr (M > 1) {
    constexpr int kLower = M <= 4 ? M - 1 : M - 2;
    if (height < M) {
      return tile_kernel<Engine, Format, kLower, C>(height);
    }
  }
  return {multiply_tile<Engine, Format, M, C>, registers_of<M>() / kParts};
}

/// All rows of a product, as many at once for all panels as the second-level cache holds;
/// read(panel, count) gives so many panels of w in the format.
template <class Engine, class Format, int kHighest, class C, class Read>
void multiply_rows(const PackedProduct<C>& p, const Tiles& tiles, Index panel_bytes,
                   const Read& read) {
  const Index row_words = packed_depth(p.columns) / Engine::kWordNumbers;
  const Index blocks = packed_blocks(p.columns);
  const auto most = tile_kernel<Engine, Format, kHighest, C>(tiles.height);
  const auto last = tile_kernel<Engine, Format, kHighest, C>(tiles.last);
  const Index at_once = larger(1, kCachedWords / larger(1, tiles.height * row_words));
  for (Index first = 0; first < tiles.count; first += at_once) {
    const Index end = smaller(first + at_once, tiles.count);
    for (Index panel = 0; panel < p.panels; panel += most.panels) {
      const std::byte* const w = read(panel, smaller(most.panels, p.panels - panel));
      for (Index t = first; t < end; ++t) {
        const Index row = t * tiles.height;
        const TileRows x{p.x.words + row * row_words, p.x.scale + row * blocks,
                         p.x.sum + row * blocks};
        (t + 1 == tiles.count ? last : most).run(p, x, row, w, panel_bytes, panel);
      }
    }
  }
}

template <class Engine, class Format, class C>
void multiply(const PackedProduct<C>& p, void* /*scratch*/) {
  const Index bytes = packed_panel_bytes(Format::kFormat, p.columns);
  multiply_rows<Engine, Format, Engine::kTileRows>(
      p, tiles_of(p.rows, Engine::kTileRows), bytes,
      [&](Index panel, Index /*count*/) { return p.w + panel * bytes; });
}

/// A panel of four bits as one of eight.
inline void decode_panel(const std::byte* from, Index bytes, Index depth, std::byte* to) {
  constexpr int V = kParts;
  Panels<V> panel(from, 1, bytes);
  for (Index k = 0; k < depth; k += kPackedBlock) {
    const Index groups = smaller(kPackedBlock, depth - k) / kPackedGroup;
    std::memcpy(to, panel.at[0], kPackedScaleBytes);
    to += kPackedScaleBytes;
    Int4::Block<V> block(panel, groups);
    for (Index g = 0; g < groups; ++g) {
      block.next_group();
      for (Index pair = 0; pair < 4; ++pair, to += 2 * kChunkBytes) {
        Words both[2][V];
        block.next_pair(both[0], both[1]);
        std::memcpy(to, both, sizeof both);
      }
    }
    panel = block.words;
  }
}

/// Few rows read four bits as they are; for more, some panels are decoded for all rows.
template <class Engine, class C>
void multiply_int4(const PackedProduct<C>& p, void* scratch) {
  constexpr int kFewRows = smaller(8, Engine::kTileRows);
  const Index bytes = packed_panel_bytes(DType::kInt4, p.columns);
  if (p.rows <= kFewRows) {
    multiply_rows<Engine, Int4, kFewRows>(
        p, tiles_of(p.rows, Engine::kTileRows), bytes,
        [&](Index panel, Index /*count*/) { return p.w + panel * bytes; });
    return;
  }
  auto* const decoded = static_cast<std::byte*>(scratch);
  const Index decoded_bytes = packed_panel_bytes(DType::kInt8, p.columns);
  multiply_rows<Engine, Int8, Engine::kTileRows>(
      p, tiles_of(p.rows, Engine::kTileRows), decoded_bytes, [&](Index panel, Index count) {
        for (Index i = 0; i < count; ++i) {
          decode_panel(p.w + (panel + i) * bytes, bytes, packed_depth(p.columns),
                       decoded + i * decoded_bytes);
        }
        return static_cast<const std::byte*>(decoded);
      });
}

}  // namespace
}  // namespace moesaic::cpu::MOESAIC_ISA
