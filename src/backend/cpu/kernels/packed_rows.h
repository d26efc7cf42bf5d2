#pragma once

// The rows of x as products with packed weights read them (PackedRows): a tile of M rows is
// [chunk][M][64 bytes], with the numbers of one row along k in each 64 bytes.
#include "backend/cpu/kernels/packed.h"

namespace moesaic::cpu::MOESAIC_ISA {
namespace {

using B16 = std::int8_t __attribute__((vector_size(16)));

/// Rounds to nearest even: a sum with 1.5 * 2^23 ends in the bits of an integer.
inline I16 nearest(F16 x, float factor) {
  const F16 magic = splat(12582912.0F);
  return reinterpret_cast<I16>(x * factor + magic) - reinterpret_cast<I16>(magic);
}

inline std::int32_t sum_of(I16 v) {
  std::int32_t total = 0;
  for (int i = 0; i < kLanes; ++i) {
    total += v[i];
  }
  return total;
}

/// The bits of the largest absolute value, those of infinity or more if one is not finite.
template <class A>
std::uint32_t largest_bits(const A* x, Index n) {
  I16 most{};  // bits of floats without a sign are in the order of the floats
  for (Index k = 0; k < n; k += kLanes) {
    const I16 bits = reinterpret_cast<I16>(load(x + k, n - k)) & 0x7fffffff;
    most = bits > most ? bits : most;
  }
  std::int32_t best = 0;
  for (int i = 0; i < kLanes; ++i) {
    best = most[i] > best ? most[i] : best;
  }
  return static_cast<std::uint32_t>(best);
}

/// Row i of a tile of M rows as signed bytes. What is below 1e-30 counts as zero; a block with a
/// number that is not finite has the scale NaN.
template <class A>
void quantise_row(const A* x, Index columns, Index i, Index height, const PackedRows& to) {
  constexpr float kLeast = 1e-30F;
  auto* const bytes = reinterpret_cast<std::byte*>(to.words);
  const Index blocks = packed_blocks(columns);
  for (Index b = 0; b < blocks; ++b) {
    const Index begin = b * kPackedBlock;
    const Index n = smaller(kPackedBlock, columns - begin);
    const std::uint32_t bits = largest_bits(x + begin, n);
    float most;
    std::memcpy(&most, &bits, sizeof most);
    const bool zero = most < kLeast;
    const float factor = zero ? 0.0F : 127.0F / most;
    I16 sums{};
    for (Index k = 0; k < packed_depth(n); k += kLanes) {
      const F16 values = k < n ? load(x + begin + k, n - k) : F16{};
      const I16 rounded = nearest(values, factor);
      const auto narrow = __builtin_convertvector(rounded, B16);
      sums += rounded;
      const Index at = begin + k;
      std::memcpy(bytes + (at / kChunkBytes * height + i) * kChunkBytes + at % kChunkBytes, &narrow,
                  sizeof narrow);
    }
    to.scale[i * blocks + b] = zero ? 0.0F : most * (1.0F / 127.0F);
    if (bits >= 0x7f800000U) {
      to.scale[i * blocks + b] = __builtin_nanf("");
    }
    to.sum[i * blocks + b] = sum_of(sums);
  }
}

/// The same as bf16; scale and sum are left alone.
template <class A>
void round_row(const A* x, Index columns, Index i, Index height, const PackedRows& to) {
  auto* const numbers = reinterpret_cast<BFloat16*>(to.words);
  constexpr Index kNumbers = 2 * kChunk;  // of 64 bytes
  for (Index k = 0; k < packed_depth(columns); k += kLanes) {
    store(numbers + (k / kNumbers * height + i) * kNumbers + k % kNumbers,
          k < columns ? load(x + k, columns - k) : F16{});
  }
}

template <class Engine>
Index padded_rows(Index rows) {
  const Tiles tiles = tiles_of(rows, Engine::kTileRows);
  return tiles.count == 0 ? 0 : (tiles.count - 1) * tiles.height + tiles.last;
}

template <class Engine>
Index tile_count(Index rows) {
  return tiles_of(rows, Engine::kTileRows).count;
}

template <class Engine, class A>
void lay_out(const A* x, Index rows, Index columns, const PackedRows& to, Range range) {
  const Tiles tiles = tiles_of(rows, Engine::kTileRows);
  const Index blocks = packed_blocks(columns);
  for (Index t = range.begin; t < range.end; ++t) {
    const Index row = t * tiles.height;
    const Index height = t + 1 == tiles.count ? tiles.last : tiles.height;
    const PackedRows tile{to.words + row * packed_depth(columns) / Engine::kWordNumbers,
                          to.scale + row * blocks, to.sum + row * blocks};
    for (Index i = 0; i < height; ++i) {
      // What fills a tile up is any row: its results are not written.
      Engine::lay_out_row(x + smaller(row + i, rows - 1) * columns, columns, i, height, tile);
    }
  }
}

/// Integers with a Dot that multiplies four bytes u with four signed bytes of a row (Dot::Row) in
/// each lane.
template <class Dot>
struct Integers {
  static constexpr int kTileRows = Dot::kTileRows;
  static constexpr Index kWordNumbers = 4;

  template <class A>
  static void lay_out_row(const A* x, Index columns, Index i, Index height, const PackedRows& to) {
    quantise_row(x, columns, i, height, to);
  }
  template <class Format, int M, int V>
  static void tile(const TileRows& x, const Panels<V>& w, Index depth, F16 (&totals)[M][V]) {
    integer_tile<Dot, Format>(x, w, depth, totals);
  }
};

/// bf16 with a Dot that multiplies pairs.
template <class Dot>
struct Halves {
  static constexpr int kTileRows = Dot::kTileRows;
  static constexpr Index kWordNumbers = 2;

  template <class A>
  static void lay_out_row(const A* x, Index columns, Index i, Index height, const PackedRows& to) {
    round_row(x, columns, i, height, to);
  }
  template <class Format, int M, int V>
  static void tile(const TileRows& x, const Panels<V>& w, Index depth, F16 (&totals)[M][V]) {
    bf16_tile<Dot>(x, w, depth, totals);
  }
};

template <class Dot>
constexpr PackedKernels kBf16Kernels = {
    .number_bytes = 2,
    .tiles = tile_count<Halves<Dot>>,
    .padded_rows = padded_rows<Halves<Dot>>,
    .rows_of_f32 = lay_out<Halves<Dot>, float>,
    .rows_of_bf16 = lay_out<Halves<Dot>, BFloat16>,
    .to_f32 = multiply<Halves<Dot>, Bf16, float>,
    .to_bf16 = multiply<Halves<Dot>, Bf16, BFloat16>,
};
template <class Dot>
constexpr PackedKernels kInt8Kernels = {
    .number_bytes = 1,
    .tiles = tile_count<Integers<Dot>>,
    .padded_rows = padded_rows<Integers<Dot>>,
    .rows_of_f32 = lay_out<Integers<Dot>, float>,
    .rows_of_bf16 = lay_out<Integers<Dot>, BFloat16>,
    .to_f32 = multiply<Integers<Dot>, Int8, float>,
    .to_bf16 = multiply<Integers<Dot>, Int8, BFloat16>,
};
template <class Dot>
constexpr PackedKernels kInt4Kernels = {
    .number_bytes = 1,
    .tiles = tile_count<Integers<Dot>>,
    .padded_rows = padded_rows<Integers<Dot>>,
    .rows_of_f32 = lay_out<Integers<Dot>, float>,
    .rows_of_bf16 = lay_out<Integers<Dot>, BFloat16>,
    .to_f32 = multiply_int4<Integers<Dot>, float>,
    .to_bf16 = multiply_int4<Integers<Dot>, BFloat16>,
};

}  // namespace
}  // namespace moesaic::cpu::MOESAIC_ISA
