#pragma once

#include <cstdint>

#include "backend/cuda/device/operand_tile.cuh"
#include "backend/cuda/device/ptx.cuh"

// Fragments of mma_bf16 from tiles in shared memory. Where k is not the inner index, the 8 x 8
// matrices are transposed on their way.
namespace moesaic::cuda {

/// Rows [row, row + 16) of a, [k, k + 16).
template <class Tile>
__device__ __forceinline__ void read_left(const std::uint16_t* tile, int row, int k,
                                          std::uint32_t (&to)[4]) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  if constexpr (Tile::kInnerIs == Inner::kDepth) {
    ldmatrix_x4(to, tile + Tile::place(row + lane % 16, k / 8 + lane / 16));
  } else {
    ldmatrix_x4_trans(to, tile + Tile::place(k + lane % 8 + lane / 16 * 8, row / 8 + lane / 8 % 2));
  }
}

/// Columns [column, column + 8) of b, and 8 more, [k, k + 16).
template <class Tile>
__device__ __forceinline__ void read_right(const std::uint16_t* tile, int column, int k,
                                           std::uint32_t (&to)[2], std::uint32_t (&more)[2]) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  std::uint32_t words[4];
  if constexpr (Tile::kInnerIs == Inner::kDepth) {
    ldmatrix_x4(words, tile + Tile::place(column + lane % 8 + lane / 16 * 8, k / 8 + lane / 8 % 2));
  } else {
    ldmatrix_x4_trans(words, tile + Tile::place(k + lane % 16, column / 8 + lane / 16));
  }
  to[0] = words[0], to[1] = words[1];
  more[0] = words[2], more[1] = words[3];
}

/// Columns [column, column + 8) of b alone.
template <class Tile>
__device__ __forceinline__ void read_right(const std::uint16_t* tile, int column, int k,
                                           std::uint32_t (&to)[2]) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  if constexpr (Tile::kInnerIs == Inner::kDepth) {
    ldmatrix_x2(to, tile + Tile::place(column + lane % 8, k / 8 + lane / 8 % 2));
  } else {
    ldmatrix_x2_trans(to, tile + Tile::place(k + lane % 16, column / 8));
  }
}

}  // namespace moesaic::cuda
