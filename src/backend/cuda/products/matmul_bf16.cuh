#pragma once

#include "backend/cuda/device/fragments.cuh"
#include "backend/cuda/device/launch.cuh"
#include "backend/cuda/device/operand_tile.cuh"
#include "backend/cuda/device/product_block.cuh"

// Products of bf16 with fp32 sums: each element is one sum of steps of sixteen in the order of k.
namespace moesaic::cuda {

/// A block of warps that lie Down x Across on kRows x kColumns elements, with kStages tiles of
/// kDepth on the way.
template <int kRowsOf, int kColumnsOf, int kDepthOf, int kDown, int kAcross, int kStagesOf>
struct Bf16Shape {
  static constexpr int kRows = kRowsOf, kColumns = kColumnsOf, kDepth = kDepthOf;
  static constexpr int kStages = kStagesOf;
  static constexpr int kThreads = 32 * kDown * kAcross;
  static constexpr int kWarpsDown = kDown;
  static constexpr int kWarpRows = kRows / kDown, kWarpColumns = kColumns / kAcross;
  static constexpr int kHigh = kWarpRows / 16, kWide = kWarpColumns / 8;  // fragments of a warp
};

template <class Shape, Inner kA, Inner kB>
struct Bf16Ring {
  using A = OperandTile<std::uint16_t, kA, Shape::kRows, Shape::kDepth>;
  using B = OperandTile<std::uint16_t, kB, Shape::kColumns, Shape::kDepth>;
  alignas(128) std::uint16_t a[Shape::kStages][A::kElements];
  alignas(128) std::uint16_t b[Shape::kStages][B::kElements];
};

/// What a warp multiplies at once: sixteen of k.
template <class Shape>
struct Bf16Step {
  std::uint32_t a[Shape::kHigh][4];
  std::uint32_t b[Shape::kWide][2];
};

template <class Shape, class Ring>
__device__ __forceinline__ void read_step(const Ring& ring, int stage, int k, int row, int column,
                                          Bf16Step<Shape>& to) {
#pragma unroll
  for (int i = 0; i < Shape::kHigh; ++i) {
    read_left<typename Ring::A>(ring.a[stage], row + 16 * i, k, to.a[i]);
  }
  if constexpr (Shape::kWide == 1) {
    read_right<typename Ring::B>(ring.b[stage], column, k, to.b[0]);
  } else {
#pragma unroll
    for (int j = 0; j < Shape::kWide; j += 2) {
      read_right<typename Ring::B>(ring.b[stage], column + 8 * j, k, to.b[j], to.b[j + 1]);
    }
  }
}

/// The next step is read while this one is multiplied.
template <class Shape, class Ring>
__device__ __forceinline__ void multiply_stage(const Ring& ring, int stage, int row, int column,
                                               float (&sums)[Shape::kHigh][Shape::kWide][4]) {
  Bf16Step<Shape> steps[2];
  read_step<Shape>(ring, stage, 0, row, column, steps[0]);
#pragma unroll
  for (int k = 0; k < Shape::kDepth; k += 16) {
    const Bf16Step<Shape>& step = steps[k / 16 % 2];
    if (k + 16 < Shape::kDepth) {
      read_step<Shape>(ring, stage, k + 16, row, column, steps[(k / 16 + 1) % 2]);
    }
#pragma unroll
    for (int i = 0; i < Shape::kHigh; ++i) {
#pragma unroll
      for (int j = 0; j < Shape::kWide; ++j) {
        mma_bf16(sums[i][j], step.a[i], step.b[j]);
      }
    }
  }
}

template <class Shape>
__device__ __forceinline__ void store_sums(const Product& p, const Block& block, int row,
                                           int column,
                                           const float (&sums)[Shape::kHigh][Shape::kWide][4]) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const std::int64_t target = target_of(p, block);
#pragma unroll
  for (int i = 0; i < 2 * Shape::kHigh; ++i) {
    const int r = row + 8 * i + lane / 4;
    const std::int64_t line = target + r * p.c_stride;
#pragma unroll
    for (int j = 0; j < Shape::kWide; ++j) {
      const int c = column + 8 * j + lane % 4 * 2;
      if (r < block.rows && c < block.columns) {
        store_pair(p, line + c, c + 1 < block.columns, sums[i / 2][j][i % 2 * 2],
                   sums[i / 2][j][i % 2 * 2 + 1]);
      }
    }
  }
}

template <class Shape, Inner kA, Inner kB, bool kWide>
__global__ void __launch_bounds__(Shape::kThreads) bf16_product(const Product p) {
  using Ring = Bf16Ring<Shape, kA, kB>;
  constexpr int kAhead = Shape::kStages - 1;
  auto& ring = shared<Ring>();
  Block block;
  if (!find_block(p, Shape::kRows, Shape::kColumns, block)) {
    return;
  }
  const auto left = left_of<std::uint16_t, kA>(p, block);
  const auto right = right_of<std::uint16_t, kB>(p, block);
  const int thread = static_cast<int>(threadIdx.x);
  const int tiles = (block.depth + Shape::kDepth - 1) / Shape::kDepth;
  const auto load = [&](int tile) {
    if (tile < tiles) {
      const int k = tile * Shape::kDepth;
      const int stage = tile % Shape::kStages;
      Ring::A::template load<Shape::kThreads, kWide>(left, k, ring.a[stage], thread);
      Ring::B::template load<Shape::kThreads, kWide>(right, k, ring.b[stage], thread);
    }
    cp_async_commit();
  };
  const int row = thread / 32 % Shape::kWarpsDown * Shape::kWarpRows;
  const int column = thread / 32 / Shape::kWarpsDown * Shape::kWarpColumns;
  float sums[Shape::kHigh][Shape::kWide][4] = {};
  for (int tile = 0; tile < kAhead; ++tile) {
    load(tile);
  }
  for (int tile = 0; tile < tiles; ++tile) {
    cp_async_wait<kAhead - 1>();
    __syncthreads();
    load(tile + kAhead);
    multiply_stage<Shape>(ring, tile % Shape::kStages, row, column, sums);
  }
  store_sums<Shape>(p, block, row, column, sums);
}

template <class Shape, Inner kA, Inner kB, bool kWide>
void launch_bf16(cudaStream_t stream, const Product& product) {
  launch(stream, bf16_product<Shape, kA, kB, kWide>,
         blocks_of(product, Shape::kRows, Shape::kColumns), dim3(Shape::kThreads),
         sizeof(Bf16Ring<Shape, kA, kB>), product);
}

/// All four ways in which the operands may lie.
template <class Shape, bool kWide>
void launch_bf16(cudaStream_t stream, const Product& product) {
  const bool deep_a = product.a_inner == Inner::kDepth;
  const bool deep_b = product.b_inner == Inner::kDepth;
  if (deep_a && deep_b) {
    launch_bf16<Shape, Inner::kDepth, Inner::kDepth, kWide>(stream, product);
  } else if (deep_a) {
    launch_bf16<Shape, Inner::kDepth, Inner::kEdge, kWide>(stream, product);
  } else if (deep_b) {
    launch_bf16<Shape, Inner::kEdge, Inner::kDepth, kWide>(stream, product);
  } else {
    launch_bf16<Shape, Inner::kEdge, Inner::kEdge, kWide>(stream, product);
  }
}

// Two blocks of 128 threads fill the registers of a multiprocessor. A warp's 64 x 64 elements need
// 80 bytes of shared memory for each step of the tensor cores; 64 x 32 would need 120 of 128.
using Bf16Large = Bf16Shape<128, 128, 32, 2, 2, 4>;
using Bf16Medium = Bf16Shape<64, 64, 64, 2, 2, 4>;
// For weights that few rows meet: the blocks are many and keep many of their bytes on the way.
using Bf16Small = Bf16Shape<64, 32, 128, 4, 1, 4>;
using Bf16Tiny = Bf16Shape<16, 32, 128, 1, 4, 8>;

void tiny_bf16(cudaStream_t stream, const Product& product);
void small_bf16(cudaStream_t stream, const Product& product);
void large_bf16(cudaStream_t stream, const Product& product);
void medium_bf16(cudaStream_t stream, const Product& product);

}  // namespace moesaic::cuda
