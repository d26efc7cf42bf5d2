#pragma once

// The rows of x as products with packed weights read them (PackedRows): a tile of M rows is
// [chunk][M][64 bytes], with the numbers of one row along k in each 64 bytes.
#include "backend/cpu/kernels/packed.h"

namespace moesaic::cpu::MOESAIC_ISA {
namespace {

using I8 = std::int32_t __attribute__((vector_size(32)));

/// Numbers of one block of a row, filled up with zeros.
struct RowBlock {
  float values[kPackedBlock + kLanes];
  Index depth;

  // Row `row` from column `begin` of all on.
  template <class A>
  RowBlock(const PackedSource<A>& from, Index row, Index begin)
      : depth(packed_depth(smaller(kPackedBlock, from.all - begin))) {
    const Index first = from.before > begin ? from.before - begin : 0;
    for (Index k = 0; k < first; k += kLanes) {
      store(values + k, F16{});
    }
    const A* const x = from.x + row * from.columns + (begin + first - from.before);
    const Index end = smaller(kPackedBlock, from.before + from.columns - begin);
    for (Index k = first; k < depth; k += kLanes) {
      store(values + k, k < end ? load(x + (k - first), end - k) : F16{});
    }
  }
  Floats at(Index k) const {
    Floats v;
    std::memcpy(&v, values + k, sizeof v);
    return v;
  }
  /// The bits of the largest absolute value: floats without a sign are in the order of their bits,
  /// what is not finite being the largest.
  std::int32_t largest_bits() const {
    Integers most{};
    for (Index k = 0; k < depth; k += kWidth) {
      const Integers bits = reinterpret_cast<Integers>(at(k)) & 0x7fffffff;
      most = bits > most ? bits : most;
    }
    std::int32_t best = 0;
    for (int i = 0; i < kWidth; ++i) {
      best = most[i] > best ? most[i] : best;
    }
    return best;
  }
};

/// Rounds to nearest even: a sum with 1.5 * 2^23 ends in the bits of an integer.
inline Integers nearest(Floats x, float factor) {
  const Floats magic = Floats{} + 12582912.0F;
  return reinterpret_cast<Integers>(x * factor + magic) - reinterpret_cast<Integers>(magic);
}

inline void store_bytes(std::byte* to, I16 v) {
  using Narrow = std::int8_t __attribute__((vector_size(16)));
  const auto bytes = __builtin_convertvector(v, Narrow);
  std::memcpy(to, &bytes, sizeof bytes);
}
// The lowest bytes of four numbers come together in each half of the register.
inline void store_bytes(std::byte* to, I8 v) {
  using Narrow = std::uint8_t __attribute__((vector_size(32)));
  const auto all = reinterpret_cast<Narrow>(v);
  const auto halves = reinterpret_cast<I8>(
      __builtin_shufflevector(all, all, 0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12, 16, 20,
                              24, 28, 16, 20, 24, 28, 16, 20, 24, 28, 16, 20, 24, 28));
  const std::int32_t words[2] = {halves[0], halves[4]};
  std::memcpy(to, words, sizeof words);
}

inline std::int32_t sum_of(Integers v) {
  std::int32_t total = 0;
  for (int i = 0; i < kWidth; ++i) {
    total += v[i];
  }
  return total;
}

/// Row `row` of x, the i-th of a tile, as signed bytes. What is below 1e-30 counts as zero; a block
/// with a number that is not finite has the scale NaN.
template <class A>
void quantise_row(const PackedSource<A>& x, Index row, Index i, Index height,
                  const PackedRows& to) {
  constexpr float kLeast = 1e-30F;
  constexpr std::int32_t kInfinity = 0x7f800000;
  auto* const bytes = reinterpret_cast<std::byte*>(to.words);
  const Index blocks = packed_blocks(x.all);
  for (Index b = 0; b < blocks; ++b) {
    const Index begin = b * kPackedBlock;
    const RowBlock block(x, row, begin);
    const std::int32_t bits =
        x.peaks != nullptr ? x.peaks[row * x.peak_stride + b] : block.largest_bits();
    float most;
    std::memcpy(&most, &bits, sizeof most);
    const bool finite = bits < kInfinity;
    const float factor = most < kLeast ? 0.0F : 127.0F / most;
    Integers sums{};
    for (Index k = 0; k < block.depth; k += kWidth) {
      const Integers rounded = finite ? nearest(block.at(k), factor) : Integers{};
      sums += rounded;
      const Index at = begin + k;
      store_bytes(bytes + (at / kChunkBytes * height + i) * kChunkBytes + at % kChunkBytes,
                  rounded);
    }
    const float scale = most < kLeast ? 0.0F : most * (1.0F / 127.0F);
    to.scale[i * blocks + b] = finite ? scale : __builtin_nanf("");
    to.sum[i * blocks + b] = sum_of(sums);
  }
}

/// The same as bf16; scale and sum are left alone.
template <class A>
void round_row(const PackedSource<A>& x, Index row, Index i, Index height, const PackedRows& to) {
  auto* const numbers = reinterpret_cast<BFloat16*>(to.words);
  const A* const from = x.x + row * x.columns;
  constexpr Index kNumbers = 2 * kChunk;  // of 64 bytes
  for (Index k = 0; k < packed_depth(x.columns); k += kLanes) {
    store(numbers + (k / kNumbers * height + i) * kNumbers + k % kNumbers,
          k < x.columns ? load(from + k, x.columns - k) : F16{});
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
void lay_out(const PackedSource<A>& x, const PackedRows& to, Range range) {
  const Tiles tiles = tiles_of(x.rows, Engine::kTileRows);
  const Index blocks = packed_blocks(x.all);
  for (Index t = range.begin; t < range.end; ++t) {
    const Index row = t * tiles.height;
    const Index height = t + 1 == tiles.count ? tiles.last : tiles.height;
    const PackedRows tile{to.words + row * packed_depth(x.all) / Engine::kWordNumbers,
                          to.scale + row * blocks, to.sum + row * blocks};
    for (Index i = 0; i < height; ++i) {
      // What fills a tile up is any row: its results are not written.
      Engine::lay_out_row(x, smaller(row + i, x.rows - 1), i, height, tile);
    }
  }
}

/// Integers with a Dot that multiplies four bytes u with four signed bytes of a row (Dot::Row) in
/// each lane.
template <class Dot>
struct OfIntegers {
  static constexpr int kTileRows = Dot::kTileRows;
  static constexpr Index kWordNumbers = 4;

  template <class A>
  static void lay_out_row(const PackedSource<A>& x, Index row, Index i, Index height,
                          const PackedRows& to) {
    quantise_row(x, row, i, height, to);
  }
  template <class Format, int M, int V>
  static void tile(const TileRows& x, const Panels<V>& w, Index depth, Floats (&totals)[M][V]) {
    integer_tile<Dot, Format>(x, w, depth, totals);
  }
};

/// bf16 with a Dot of two products.
template <class Dot>
struct OfHalves {
  static constexpr int kTileRows = Dot::kTileRows;
  static constexpr Index kWordNumbers = 2;

  template <class A>
  static void lay_out_row(const PackedSource<A>& x, Index row, Index i, Index height,
                          const PackedRows& to) {
    round_row(x, row, i, height, to);
  }
  template <class Format, int M, int V>
  static void tile(const TileRows& x, const Panels<V>& w, Index depth, Floats (&totals)[M][V]) {
    bf16_tile<Dot>(x, w, depth, totals);
  }
};

template <class Engine>
constexpr PackedKernels kernels_of(void (*to_f32)(const PackedProduct<float>&, void*),
                                   void (*to_bf16)(const PackedProduct<BFloat16>&, void*)) {
  return {.number_bytes = 4 / Engine::kWordNumbers,
          .tiles = tile_count<Engine>,
          .padded_rows = padded_rows<Engine>,
          .rows_of_f32 = lay_out<Engine, float>,
          .rows_of_bf16 = lay_out<Engine, BFloat16>,
          .to_f32 = to_f32,
          .to_bf16 = to_bf16};
}

template <class Dot>
constexpr PackedKernels kBf16Kernels = kernels_of<OfHalves<Dot>>(
    multiply<OfHalves<Dot>, Bf16, float>, multiply<OfHalves<Dot>, Bf16, BFloat16>);
template <class Dot>
constexpr PackedKernels kInt8Kernels = kernels_of<OfIntegers<Dot>>(
    multiply<OfIntegers<Dot>, Int8, float>, multiply<OfIntegers<Dot>, Int8, BFloat16>);
template <class Dot>
constexpr PackedKernels kInt4Kernels = kernels_of<OfIntegers<Dot>>(
    multiply_int4<OfIntegers<Dot>, float>, multiply_int4<OfIntegers<Dot>, BFloat16>);

}  // namespace
}  // namespace moesaic::cpu::MOESAIC_ISA
