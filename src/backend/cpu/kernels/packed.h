#pragma once

// y = x w^T with packed weights (packed_layout.h). The rows of x become numbers of the weights'
// kind once: bf16, or int8 with a scale for each row and block of 256 along k,
//   x = c a,  c = max |x| / 127;    x . w = sum over blocks of c d (a . u - 128 sum of a),
// where the bracket is a sum of integers: exact in any order, so that a row has the same bits in
// every tile and on every instruction set. It becomes a float once for each block, in order of k.
// A tile, M rows of x and V panels of w, stays in registers; the fewer rows, the more panels.
#include "backend/cpu/kernels/kernels.h"
#include "backend/cpu/kernels/simd.h"

namespace moesaic::cpu::MOESAIC_ISA {
namespace {

using Word = std::uint32_t;
using B64 = std::uint8_t __attribute__((vector_size(64)));

constexpr Index kChunk = kLanes;  // words of a row of x that lie together
constexpr Index kChunkBytes = 4 * kChunk;
constexpr Index kAheadBytes = 2048;  // of a panel that are on their way from memory

inline U16 load_words(const std::byte* p) {
  U16 v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
inline F16 load_floats(const std::byte* p) {
  F16 v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

/// Panels of a tile of M rows.
template <int M>
constexpr int panels_of() {
  return kOneRegister ? (M <= 4 ? 4 : 2) : (M <= 2 ? 2 : 1);
}

/// The panels of a tile; those behind the last one are the last one again. Memory is asked for what
/// is read kAheadBytes later: of the same panel, or of the V-th one from it.
template <int V>
struct Panels {
  const std::byte* at[V];
  const std::byte* end;  // of the first
  Index skip;            // from there to the V-th

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
  static constexpr PackedFormat kFormat = PackedFormat::kBf16;
};

/// A word is four numbers of k.
struct Int8 {
  static constexpr PackedFormat kFormat = PackedFormat::kInt8;

  template <int V>
  struct Block {
    Panels<V> words;
    Index ahead = 0;

    explicit Block(const Panels<V>& panels, Index /*groups*/) : words(panels) {
      words.advance(kPackedScaleBytes);
    }
    void next_group() { ahead = words.ahead(); }
    void next_pair(U16 (&first)[V], U16 (&second)[V]) {
      for (int v = 0; v < V; ++v) {
        __builtin_prefetch(words.at[v] + ahead);
        __builtin_prefetch(words.at[v] + ahead + kChunkBytes);
        first[v] = load_words(words.at[v]);
        second[v] = load_words(words.at[v] + kChunkBytes);
      }
      words.advance(2 * kChunkBytes);
    }
  };
};

/// Four bits become eight in registers: both numbers of 16 bits are multiplied by s at once, since
/// q s does not carry into the upper byte.
struct Int4 {
  static constexpr PackedFormat kFormat = PackedFormat::kInt4;

  template <int V>
  struct Block {
    Panels<V> pairs, words;
    H32 factor[V];
    B64 least[V];
    Index ahead = 0;

    explicit Block(const Panels<V>& panels, Index groups) : pairs(panels), words(panels) {
      pairs.advance(kPackedScaleBytes);
      words.advance(kPackedScaleBytes + groups * kPackedPairBytes);
    }
    void next_group() {
      for (int v = 0; v < V; ++v) {
        H16 both;
        std::memcpy(&both, pairs.at[v], sizeof both);
        const U16 wide = __builtin_convertvector(both, U16);
        const U16 s = wide & 0xffU;
        const U16 m = (wide >> 8) * 0x01010101U;
        factor[v] = reinterpret_cast<H32>(s | (s << 16));
        least[v] = reinterpret_cast<B64>(m);
      }
      pairs.advance(kPackedPairBytes);
      ahead = words.ahead();
    }
    void next_pair(U16 (&first)[V], U16 (&second)[V]) {
      for (int v = 0; v < V; ++v) {
        __builtin_prefetch(words.at[v] + ahead);
        const U16 nibbles = load_words(words.at[v]);
        first[v] = decoded(nibbles & 0x0f0f0f0fU, v);
        second[v] = decoded((nibbles >> 4) & 0x0f0f0f0fU, v);
      }
      words.advance(kChunkBytes);
    }
    U16 decoded(U16 q, int v) const {
      const H32 product = reinterpret_cast<H32>(q) * factor[v];
      return reinterpret_cast<U16>(reinterpret_cast<B64>(product) + least[v]);
    }
  };
};

/// Dot::step(sum, u, a) adds the products of four bytes u with four signed bytes a in each lane.
template <class Dot, class Format, int M, int V>
void integer_tile(const TileRows& x, Panels<V> w, Index depth, F16 (&totals)[M][V]) {
  const Index blocks = (depth + kPackedBlock - 1) / kPackedBlock;
  for (int i = 0; i < M; ++i) {
    for (int v = 0; v < V; ++v) {
      totals[i][v] = F16{};
    }
  }
  const Word* a = x.words;
  for (Index b = 0; b < blocks; ++b) {
    const Index groups = smaller(kPackedBlock, depth - b * kPackedBlock) / kPackedGroup;
    I16 sums[M][V];
    for (int i = 0; i < M; ++i) {
      for (int v = 0; v < V; ++v) {
        sums[i][v] = -128 * x.sum[i * blocks + b] - I16{};
      }
    }
    typename Format::template Block<V> block(w, groups);
    for (Index g = 0; g < groups; ++g) {
      block.next_group();
      const Word* chunk = a + g / 2 * kChunk * M + g % 2 * 8;
      for (Index word = 0; word < 8; word += 2) {
        U16 first[V];
        U16 second[V];
        block.next_pair(first, second);
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
      const F16 scale = load_floats(w.at[v]);
      for (int i = 0; i < M; ++i) {
        const F16 product = __builtin_convertvector(sums[i][v], F16) * x.scale[i * blocks + b];
        totals[i][v] += product * scale;
      }
      w.at[v] = block.words.at[v];
    }
  }
}

/// Dot::step(sum, w, a) adds the products of two pairs of bf16 in each lane.
template <class Dot, int M, int V>
void bf16_tile(const TileRows& x, Panels<V> w, Index depth, F16 (&totals)[M][V]) {
  F16 sums[M][V] = {};
  const Word* chunk = x.words;
  for (Index k = 0; k < depth; k += 2 * kChunk, chunk += M * kChunk) {
    const Index ahead = w.ahead();
    for (Index word = 0; word < kChunk; ++word) {
      U16 columns[V];
      for (int v = 0; v < V; ++v) {
        __builtin_prefetch(w.at[v] + ahead);
        columns[v] = load_words(w.at[v]);
      }
      w.advance(kChunkBytes);
      for (int i = 0; i < M; ++i) {
        const typename Dot::Row row(chunk[i * kChunk + word]);
        for (int v = 0; v < V; ++v) {
          sums[i][v] = Dot::step(sums[i][v], columns[v], row);
        }
      }
    }
  }
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

/// What multiplies a tile: all rows and panels of it; `panels`: so many at once.
template <class C>
struct TileKernel {
  void (*run)(const PackedProduct<C>& product, const TileRows& x, Index row, const std::byte* w,
              Index panel_bytes, Index panel);
  int panels;
};

/// w: panel `panel` of the product, of which others follow; row: the first of the tile.
template <class Engine, class Format, int M, class C>
void multiply_tile(const PackedProduct<C>& p, const TileRows& x, Index row, const std::byte* w,
                   Index panel_bytes, Index panel) {
  constexpr int V = panels_of<M>();
  Panels<V> panels;
  for (int v = 0; v < V; ++v) {
    panels.at[v] = w + smaller(v, p.panels - panel - 1) * panel_bytes;
  }
  panels.end = w + panel_bytes;
  panels.skip = (V - 1) * panel_bytes;
  F16 totals[M][V];
  Engine::template tile<Format, M, V>(x, panels, packed_depth(p.columns), totals);
  C* const y = p.y + row * p.ldy + panel * kLanes;
  for (int i = 0; i < M; ++i) {
    for (int v = 0; v < V; ++v) {
      const Index n = p.n - (panel + v) * kLanes;
      if (row + i < p.rows && n > 0) {
        store(y + i * p.ldy + v * kLanes, totals[i][v], n);
      }
    }
  }
}

/// The kernel of the height, which is at most M.
template <class Engine, class Format, int M, class C>
TileKernel<C> tile_kernel(Index height) {
  if constexpr (M > 1) {
    if (height < M) {
      return tile_kernel < Engine, Format, M <= 4 ? M - 1 : M - 2, C > (height);
    }
  }
  return {multiply_tile<Engine, Format, M, C>, panels_of<M>()};
}

/// All rows of a product; read(panel, count) gives so many panels of w in the format.
template <class Engine, class Format, int kHighest, class C, class Read>
void multiply_rows(const PackedProduct<C>& p, const Tiles& tiles, Index panel_bytes,
                   const Read& read) {
  const Index row_words = packed_depth(p.columns) / Engine::kWordNumbers;
  const Index blocks = packed_blocks(p.columns);
  const auto most = tile_kernel<Engine, Format, kHighest, C>(tiles.height);
  const auto last = tile_kernel<Engine, Format, kHighest, C>(tiles.last);
  for (Index panel = 0; panel < p.panels; panel += most.panels) {
    const std::byte* const w = read(panel, smaller(most.panels, p.panels - panel));
    for (Index t = 0; t < tiles.count; ++t) {
      const Index row = t * tiles.height;
      const TileRows x{p.x.words + row * row_words, p.x.scale + row * blocks,
                       p.x.sum + row * blocks};
      (t + 1 == tiles.count ? last : most).run(p, x, row, w, panel_bytes, panel);
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
inline void decode_panel(const std::byte* from, Index depth, std::byte* to) {
  Panels<1> panel{{from}, from, 0};
  for (Index k = 0; k < depth; k += kPackedBlock) {
    const Index groups = smaller(kPackedBlock, depth - k) / kPackedGroup;
    std::memcpy(to, panel.at[0], kPackedScaleBytes);
    to += kPackedScaleBytes;
    Int4::Block<1> block(panel, groups);
    for (Index g = 0; g < groups; ++g) {
      block.next_group();
      for (Index pair = 0; pair < 4; ++pair, to += 2 * kChunkBytes) {
        U16 first[1];
        U16 second[1];
        block.next_pair(first, second);
        std::memcpy(to, first, sizeof first);
        std::memcpy(to + kChunkBytes, second, sizeof second);
      }
    }
    panel = block.words;
  }
}

/// Few rows read four bits as they are; for more, some panels are decoded for all rows.
template <class Engine, class C>
void multiply_int4(const PackedProduct<C>& p, void* scratch) {
  constexpr int kFewRows = smaller(8, Engine::kTileRows);
  const Index bytes = packed_panel_bytes(PackedFormat::kInt4, p.columns);
  if (p.rows <= kFewRows) {
    multiply_rows<Engine, Int4, kFewRows>(
        p, tiles_of(p.rows, Engine::kTileRows), bytes,
        [&](Index panel, Index /*count*/) { return p.w + panel * bytes; });
    return;
  }
  auto* const decoded = static_cast<std::byte*>(scratch);
  const Index decoded_bytes = packed_panel_bytes(PackedFormat::kInt8, p.columns);
  multiply_rows<Engine, Int8, Engine::kTileRows>(
      p, tiles_of(p.rows, Engine::kTileRows), decoded_bytes, [&](Index panel, Index count) {
        for (Index i = 0; i < count; ++i) {
          decode_panel(p.w + (panel + i) * bytes, packed_depth(p.columns),
                       decoded + i * decoded_bytes);
        }
        return static_cast<const std::byte*>(decoded);
      });
}

}  // namespace
}  // namespace moesaic::cpu::MOESAIC_ISA
