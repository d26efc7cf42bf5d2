#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "backend/packed_weights.h"

// How weights of int8 and int4 lie in the device's memory: panels of 16 rows and blocks of 256
// along k that begin with 16 scales, all of the sizes of packed_layout.h, but within a block in the
// order in which a warp multiplies them. A unit of 64 along k is the left operand of two
// mma.m16n8k32, whose lanes have 16 bytes each, one after the other. A sum of integers has no
// order, so a lane takes 16 neighbours along k, which are 16 bytes of a row of x too:
//   lane = 4 (row % 8) + k / 16;  product = k / 8 % 2;  word = row / 8 + 2 (k / 4 % 2);
//   byte = k % 4.
//   int8   unit: the first product's bytes u, then the second's.
//   int4   unit: for each row % 8 and k / 32 (s, m) of the row and of the row 8 further down; then
//          the bytes q, the first product in the low nibbles, the second in the high ones.
namespace moesaic::cuda::packed {

constexpr int kRows = static_cast<int>(kPackedRows);
constexpr int kBlock = static_cast<int>(kPackedBlock);
constexpr int kUnit = static_cast<int>(kPackedUnit);
constexpr int kUnits = kBlock / kUnit;  // of a block
constexpr int kScaleBytes = static_cast<int>(kPackedScaleBytes);
constexpr int kProductBytes = 512;  // of the left operand of a product
constexpr int kZeroLevel = 128;     // the level that stands for 0

template <DType format>
constexpr int kPairBytes = format == DType::kInt4 ? 64 : 0;  // of a unit
template <DType format>
constexpr int kUnitBytes = format == DType::kInt4 ? 64 + kProductBytes : 2 * kProductBytes;
template <DType format>
constexpr int kBlockBytes = kScaleBytes + kUnits* kUnitBytes<format>;

static_assert(kBlockBytes<DType::kInt8> == packed_panel_bytes(DType::kInt8, kPackedBlock));
static_assert(kBlockBytes<DType::kInt4> == packed_panel_bytes(DType::kInt4, kPackedBlock));
static_assert(kScaleBytes + kUnitBytes<DType::kInt4> ==
              packed_panel_bytes(DType::kInt4, kPackedUnit));

/// Eight numbers of a row of a unit: four in each of its products. There are eight such places.
struct Eight {
  int row, place;  // row of the panel

  /// The first number's k in the unit; the second four begin 8 later.
  __device__ int k() const { return place / 2 * 16 + place % 2 * 4; }
  /// Of their word among a product's bytes.
  __device__ int word() const {
    const int lane = row % 8 * 4 + place / 2;
    return lane * 16 + (row / 8 + place % 2 * 2) * 4;
  }
  /// Of their (s, m) in the unit.
  __device__ int pair() const { return (row % 8 * 2 + place / 4) * 4 + row / 8 * 2; }
};

constexpr int kPlaces = 8;  // of a row of a unit

/// Which eight numbers thread i has, where the threads of a grid share out the rows of panels.
struct Item {
  std::int64_t row;  // of all panels
  int unit;          // of all of the row
  int place;

  __device__ Item(std::int64_t i, int units)
      : row(i / kPlaces / units),
        unit(static_cast<int>(i / kPlaces % units)),
        place(static_cast<int>(i % kPlaces)) {}
  __device__ Eight eight() const { return {static_cast<int>(row % kRows), place}; }
};

struct Codes {
  std::uint32_t first, second;  // four bytes each

  __device__ int operator[](int i) const {
    return static_cast<int>((i < 4 ? first : second) >> (i % 4 * 8) & 0xffU);
  }
  __device__ void set(int i, int code) {
    (i < 4 ? first : second) |= static_cast<std::uint32_t>(code) << (i % 4 * 8);
  }
};

/// How far number i of eight lies behind the first.
__device__ __forceinline__ int step_of(int i) { return i / 4 * 8 + i % 4; }

template <DType format>
__device__ __forceinline__ void store_codes(std::byte* unit, const Eight& eight, Codes codes) {
  auto* const word = reinterpret_cast<std::uint32_t*>(unit + kPairBytes<format> + eight.word());
  if constexpr (format == DType::kInt4) {
    *word = codes.first | codes.second << 4U;
  } else {
    word[0] = codes.first;
    word[kProductBytes / 4] = codes.second;
  }
}
template <DType format>
__device__ __forceinline__ Codes codes_at(const std::byte* unit, const Eight& eight) {
  const auto* const word =
      reinterpret_cast<const std::uint32_t*>(unit + kPairBytes<format> + eight.word());
  if constexpr (format == DType::kInt4) {
    return {word[0] & 0x0f0f0f0fU, word[0] >> 4U & 0x0f0f0f0fU};
  } else {
    return {word[0], word[kProductBytes / 4]};
  }
}

/// s and m of a group of 32 of int4.
struct Pair {
  std::uint8_t s, m;
};
__device__ __forceinline__ Pair* pair_at(std::byte* unit, const Eight& eight) {
  return reinterpret_cast<Pair*>(unit + eight.pair());
}

/// Weights (G, N, K) of a format, and where each row's blocks are. Panels are filled up with rows,
/// and blocks with columns, that stand for 0.
struct PackedPanels {
  std::byte* bytes;
  std::int64_t rows, columns;  // N, K
  std::int64_t panels;         // of a group
  std::int64_t panel_bytes;

  __device__ int blocks() const { return static_cast<int>((columns + kBlock - 1) / kBlock); }
  __device__ int units() const { return static_cast<int>((columns + kUnit - 1) / kUnit); }
  /// The block of a row of all panels.
  template <DType format>
  __device__ std::byte* block(std::int64_t row, int block) const {
    return bytes + row / kRows * panel_bytes + std::int64_t{block} * kBlockBytes<format>;
  }
  /// The row of all groups (G N); negative: none.
  __device__ std::int64_t source_row(std::int64_t row) const {
    const std::int64_t in_group = row % (panels * kRows);
    return in_group < rows ? row / (panels * kRows) * rows + in_group : -1;
  }
  /// The reverse.
  __device__ std::int64_t row_of(std::int64_t source) const {
    return source / rows * panels * kRows + source % rows;
  }
};

inline PackedPanels panels_of(const PackedWeights& w) {
  return {.bytes = w.words.data(),
          .rows = w.rows,
          .columns = w.columns,
          .panels = packed_parts(w.rows, kPackedRows),
          .panel_bytes = packed_panel_bytes(w.format, w.columns)};
}

template <DType format>
__device__ __forceinline__ std::byte* unit_of(std::byte* block, int unit) {
  return block + kScaleBytes + unit * kUnitBytes<format>;
}

}  // namespace moesaic::cuda::packed
