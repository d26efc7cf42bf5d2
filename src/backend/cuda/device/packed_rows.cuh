#pragma once

#include <cuda_runtime.h>

#include "backend/cuda/device/numbers.cuh"
#include "backend/cuda/device/packed.cuh"
#include "backend/cuda/device/warp.cuh"

// Rows of x as products with packed weights read them: signed bytes, row by row, and for each row
// and block of 256 a scale; and which rows are multiplied together.
namespace moesaic::cuda::packed {

constexpr int kRowThreads = 256;
constexpr int kRowWarps = kRowThreads / kWarp;

struct RowScale {
  float scale;
  std::int32_t correction;  // -128 times the sum of the bytes
};

/// Rows [row, end) of a group, at most as many as a tile is high; group -1: there is none.
struct RowTile {
  int group, row, end, unused;
};

/// Rows of groups: those of group g are [offsets[g], offsets[g + 1]); nullptr: of one group.
struct GroupedRows {
  const std::int32_t* offsets;
  int groups;
  int rows;  // of x

  __device__ int begin(int group) const { return offsets == nullptr ? 0 : offsets[group]; }
  __device__ int end(int group) const { return offsets == nullptr ? rows : offsets[group + 1]; }
};

template <class A>
struct RowSource {
  const A* x;
  std::int64_t columns;  // of x, which has columns [before, before + columns) of those of w
  std::int64_t before;
  std::int64_t depth;         // columns of w, filled up
  const std::int32_t* peaks;  // of each row and block; nullptr: the largest of the block
  std::int64_t peak_stride;
  bool vectors;  // four columns of x can be loaded at once
};

struct RowTarget {
  std::uint32_t* words;  // (R, depth / 4)
  RowScale* scales;      // (R, blocks)
  RowTile* tiles;        // [tile_count]
  int tile_count, tile_height;
};

/// Cuts groups into tiles, in order; one warp.
__device__ inline void lay_tiles(const GroupedRows& groups, const RowTarget& to) {
  const int lane = lane_index();
  int count = 0;
  for (int first = 0; first < groups.groups; first += kWarp) {
    const int group = first + lane;
    const bool exists = group < groups.groups;
    const int begin = exists ? groups.begin(group) : 0;
    const int end = exists ? groups.end(group) : 0;
    const int own = (end - begin + to.tile_height - 1) / to.tile_height;
    int through = own;  // with those of the lanes before
#pragma unroll
    for (int distance = 1; distance < kWarp; distance *= 2) {
      const int before = __shfl_sync(kAllLanes, through, max(lane - distance, 0));
      through += lane >= distance ? before : 0;
    }
    for (int i = 0; i < own; ++i) {
      const int row = begin + i * to.tile_height;
      to.tiles[count + through - own + i] = {group, row, min(row + to.tile_height, end), 0};
    }
    count += __shfl_sync(kAllLanes, through, kWarp - 1);
  }
  for (int i = count + lane; i < to.tile_count; i += kWarp) {
    to.tiles[i] = {-1, 0, 0, 0};
  }
}

/// Four numbers of a row, from column k of w on.
template <class A>
__device__ __forceinline__ void load_four(const RowSource<A>& from, std::int64_t row,
                                          std::int64_t k, float (&values)[4]) {
  const std::int64_t first = k - from.before;
  const A* const x = from.x + row * from.columns + first;
  if (from.vectors && first >= 0 && first + 4 <= from.columns) {
    struct alignas(4 * sizeof(A)) Four {
      A at[4];
    };
    const Four four = *reinterpret_cast<const Four*>(x);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      values[i] = to_float(four.at[i]);
    }
    return;
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const bool exists = first + i >= 0 && first + i < from.columns;
    values[i] = exists ? load(x + i) : 0.0F;
  }
}

/// The bits without the sign: floats are in the order of these, what is not finite being the
/// largest.
__device__ __forceinline__ std::int32_t size_bits(float value) {
  return __float_as_int(value) & 0x7fffffff;
}

/// Four numbers as signed bytes, to nearest even; adds them to the sum.
__device__ __forceinline__ std::uint32_t rounded_bytes(const float (&values)[4], float factor,
                                                       std::int32_t& sum) {
  constexpr float kMagic = 12582912.0F;  // 1.5 * 2^23: a sum with it ends in an integer
  std::uint32_t word = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int rounded =
        __float_as_int(__fadd_rn(__fmul_rn(values[i], factor), kMagic)) - __float_as_int(kMagic);
    sum += rounded;
    word |= (static_cast<std::uint32_t>(rounded) & 0xffU) << (8 * i);
  }
  return word;
}

/// A row's block. What is below 1e-30 counts as zero; a block with a number that is not finite has
/// the scale NaN.
template <class A>
__device__ __forceinline__ void round_block(const RowSource<A>& from, const RowTarget& to,
                                            std::int64_t row, int block, int blocks) {
  constexpr float kLeast = 1e-30F;
  constexpr std::int32_t kInfinity = 0x7f800000;
  constexpr int kHalf = kBlock / 2;
  float values[2][4];
  std::int32_t most_bits = 0;
#pragma unroll
  for (int j = 0; j < 2; ++j) {
    load_four(from, row, std::int64_t{block} * kBlock + j * kHalf + 4 * lane_index(), values[j]);
#pragma unroll
    for (const float value : values[j]) {
      most_bits = max(most_bits, size_bits(value));
    }
  }
  most_bits =
      from.peaks != nullptr ? from.peaks[row * from.peak_stride + block] : warp_max(most_bits);
  const bool finite = most_bits < kInfinity;
  const float most = __int_as_float(most_bits);
  const bool zero = !finite || most < kLeast;
  const float factor = zero ? 0.0F : __fdiv_rn(127.0F, most);
  std::int32_t sum = 0;
#pragma unroll
  for (int j = 0; j < 2; ++j) {
    const std::int64_t k = std::int64_t{block} * kBlock + j * kHalf + 4 * lane_index();
    if (k < from.depth) {
      const std::uint32_t word = rounded_bytes(values[j], factor, sum);
      to.words[row * from.depth / 4 + k / 4] = finite ? word : 0;
    }
  }
  sum = warp_sum(sum);
  if (lane_index() == 0) {
    const float scale = zero ? 0.0F : __fmul_rn(most, 1.0F / 127.0F);
    to.scales[row * blocks + block] = {finite ? scale : __int_as_float(0x7fc00000),
                                       finite ? -kZeroLevel * sum : 0};
  }
}

/// A warp for each row and block; the last block of the grid lays the tiles.
template <class A>
__global__ void __launch_bounds__(kRowThreads)
    round_rows(RowSource<A> from, RowTarget to, GroupedRows groups) {
  if (blockIdx.x + 1 == gridDim.x) {
    if (warp_index() == 0) {
      lay_tiles(groups, to);
    }
    return;
  }
  const int blocks = static_cast<int>((from.depth + kBlock - 1) / kBlock);
  const std::int64_t item = std::int64_t{blockIdx.x} * kRowWarps + warp_index();
  const std::int64_t row = item / blocks;
  if (row >= groups.begin(0) && row < groups.end(groups.groups - 1)) {
    round_block(from, to, row, static_cast<int>(item % blocks), blocks);
  }
}

}  // namespace moesaic::cuda::packed
