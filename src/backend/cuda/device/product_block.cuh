#pragma once

#include <cstdint>

#include "backend/cuda/device/numbers.cuh"
#include "backend/cuda/device/operand_tile.cuh"
#include "backend/cuda/products/product.h"

namespace moesaic::cuda {

/// The elements of c that a block makes: those at `rows` by `columns` from (row, column) on, as a
/// sum over `depth` from first_k on.
struct Block {
  std::int64_t row = 0, first_k = 0;
  int column = 0, group = 0;
  int rows = 0, columns = 0, depth = 0;
};

/// The tiles of rows and columns that block x stands for: columns go by in bands of so many tiles
/// of rows, so that blocks which run at the same time share what they read.
constexpr int kBand = 16;
__device__ __forceinline__ int2 tile_of_block(int row_tiles, int column_tiles) {
  const int band = static_cast<int>(blockIdx.x) / (kBand * column_tiles);
  const int within = static_cast<int>(blockIdx.x) % (kBand * column_tiles);
  const int high = min(kBand, row_tiles - band * kBand);
  return {band * kBand + within % high, within / high};
}

/// Group g begins with tile offsets[g] / height + g, which leaves it all the tiles of its rows, and
/// at most one more. So its place needs no sum over the groups before it. -1: no group. All lanes
/// of a warp call it.
__device__ __forceinline__ int group_of_tile(const Product& p, int tile, int height) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  int begun = 0;
  for (int base = 0; base < p.count; base += 32) {
    const int g = base + lane;
    const bool begins = g < p.count && p.offsets[g] / height + g <= tile;
    begun += __popc(__ballot_sync(0xffffffffU, begins));
  }
  return begun - 1;
}

/// False where the block has nothing to do.
__device__ __forceinline__ bool find_block(const Product& p, int height, int width, Block& block) {
  const int column_tiles = (p.n + width - 1) / width;
  const int row_tiles = static_cast<int>(gridDim.x) / column_tiles;
  const int2 tile = tile_of_block(row_tiles, column_tiles);
  block.column = tile.y * width;
  block.columns = min(width, p.n - block.column);
  block.row = static_cast<std::int64_t>(tile.x) * height;
  std::int64_t end = p.m;
  block.depth = p.k;
  if (p.groups == Groups::kRows) {
    block.group = group_of_tile(p, tile.x, height);
    if (block.group < 0) {
      return false;
    }
    const int begin = p.offsets[block.group];
    block.row = begin + static_cast<std::int64_t>(tile.x - begin / height - block.group) * height;
    end = p.offsets[block.group + 1];
  } else if (p.groups == Groups::kDepth) {
    block.group = static_cast<int>(blockIdx.y);
    block.first_k = p.offsets[block.group];
    block.depth = p.offsets[block.group + 1] - static_cast<int>(block.first_k);
    if (block.depth == 0 && p.add) {
      return false;
    }
  }
  block.rows = static_cast<int>(min(static_cast<std::int64_t>(height), end - block.row));
  return block.rows > 0;
}

template <class T, Inner kInner>
__device__ __forceinline__ Operand<T> operand(const void* data, std::int64_t stride,
                                              std::int64_t edge, std::int64_t first_k, int count,
                                              int depth) {
  const std::int64_t line = kInner == Inner::kDepth ? edge : first_k;
  const std::int64_t along = kInner == Inner::kDepth ? first_k : edge;
  return {static_cast<const T*>(data) + line * stride + along, stride, count, depth};
}

template <class T, Inner kInner>
__device__ __forceinline__ Operand<T> left_of(const Product& p, const Block& block) {
  return operand<T, kInner>(p.a, p.a_stride, block.row, block.first_k, block.rows, block.depth);
}

template <class T, Inner kInner>
__device__ __forceinline__ Operand<T> right_of(const Product& p, const Block& block) {
  const std::int64_t part = p.groups == Groups::kRows ? block.group * p.part : 0;
  return operand<T, kInner>(static_cast<const T*>(p.b) + part, p.b_stride, block.column,
                            block.first_k, block.columns, block.depth);
}

/// Where the element (0, 0) of the block lies in c.
__device__ __forceinline__ std::int64_t target_of(const Product& p, const Block& block) {
  const std::int64_t part = p.groups == Groups::kDepth ? block.group * p.part : 0;
  return part + block.row * p.c_stride + block.column;
}

/// Writes (or adds) two neighbours of a row, of which the second may be behind the last column.
__device__ __forceinline__ void store_pair(const Product& p, std::int64_t at, bool both, float v0,
                                           float v1) {
  if (p.narrow) {
    auto* const c = static_cast<std::uint16_t*>(p.c) + at;
    const std::uint32_t packed = pack_bf16(v0, v1);
    if (both && p.pairs) {
      *reinterpret_cast<std::uint32_t*>(c) = packed;
      return;
    }
    c[0] = static_cast<std::uint16_t>(packed);
    if (both) {
      c[1] = static_cast<std::uint16_t>(packed >> 16U);
    }
    return;
  }
  float* const c = static_cast<float*>(p.c) + at;
  if (both && p.pairs) {
    auto* const pair = reinterpret_cast<float2*>(c);
    const float2 before = p.add ? *pair : float2{0.0F, 0.0F};
    *pair = {before.x + v0, before.y + v1};
    return;
  }
  c[0] = (p.add ? c[0] : 0.0F) + v0;
  if (both) {
    c[1] = (p.add ? c[1] : 0.0F) + v1;
  }
}

}  // namespace moesaic::cuda
