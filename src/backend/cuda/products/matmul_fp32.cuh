#pragma once

#include "backend/cuda/device/launch.cuh"
#include "backend/cuda/device/operand_tile.cuh"
#include "backend/cuda/device/product_block.cuh"

// Products of fp32. k is cut in parts at fixed places: each is summed from zero in the order of k,
// and the parts are joined in order. So some warps of a block may take parts of their own.
namespace moesaic::cuda {

constexpr int kFp32Part = 256;

/// A block of kSlices groups of threads, each with its own part of k; a thread of it has
/// kHigh x kWide sums. kStages tiles of sixteen of k are on the way.
template <int kRowsOf, int kColumnsOf, int kHighOf, int kWideOf, int kSlicesOf, int kStagesOf>
struct Fp32Shape {
  static constexpr int kRows = kRowsOf, kColumns = kColumnsOf, kDepth = 16;
  static constexpr int kHigh = kHighOf, kWide = kWideOf;
  static constexpr int kSlices = kSlicesOf, kStages = kStagesOf;
  static constexpr int kDown = kRows / kHigh, kAcross = kColumns / kWide;  // threads of a slice
  static constexpr int kSliceThreads = kDown * kAcross;
  static constexpr int kThreads = kSlices * kSliceThreads;
  static constexpr int kResults = kRows * kColumns / kThreads;  // of a thread
  static_assert(kDown % 8 == 0 && kAcross % 4 == 0, "warps of 8 x 4 threads");
  static_assert(kWide % 4 == 0 && (kHigh == 2 || kHigh % 4 == 0), "vectors of a thread");
};

template <class Shape, Inner kA, Inner kB>
union Fp32Shared {
  using A = OperandTile<float, kA, Shape::kRows, Shape::kDepth>;
  using B = OperandTile<float, kB, Shape::kColumns, Shape::kDepth>;
  struct Ring {
    float a[Shape::kStages][Shape::kSlices][A::kElements];
    float b[Shape::kStages][Shape::kSlices][B::kElements];
  } ring;
  float parts[Shape::kSlices][Shape::kRows][Shape::kColumns + 4];  // + 4: other banks
};

/// The place in the tile of a thread's number i of kOf, with kThreads of them along the edge:
/// single ones for operands along k, else neighbours.
template <Inner kInner, int kOf, int kThreads>
__device__ __forceinline__ int edge_of(int thread, int i) {
  constexpr int kNeighbours = kInner == Inner::kDepth ? 1 : kOf < 4 ? kOf : 4;
  return thread * kNeighbours + i % kNeighbours + i / kNeighbours * kNeighbours * kThreads;
}

/// Four of k of a thread's numbers [first, first + kCount) of kOf.
template <class Tile, int kOf, int kThreads, int kCount>
__device__ __forceinline__ void read_four(const float* tile, int k, int thread, int first,
                                          float (&to)[kCount][4]) {
  if constexpr (Tile::kInnerIs == Inner::kDepth) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const int edge = edge_of<Inner::kDepth, kOf, kThreads>(thread, first + i);
      const auto four = *reinterpret_cast<const float4*>(tile + Tile::place(edge, k / 4));
      to[i][0] = four.x, to[i][1] = four.y, to[i][2] = four.z, to[i][3] = four.w;
    }
  } else {
#pragma unroll
    for (int l = 0; l < 4; ++l) {
#pragma unroll
      for (int i = 0; i < kCount; i += kOf < 4 ? kOf : 4) {
        const int edge = edge_of<Inner::kEdge, kOf, kThreads>(thread, first + i);
        const float* const from = tile + Tile::place(k + l, edge / 4) + edge % 4;
        if constexpr (kOf < 4) {
          const auto two = *reinterpret_cast<const float2*>(from);
          to[i][l] = two.x, to[i + 1][l] = two.y;
        } else {
          const auto four = *reinterpret_cast<const float4*>(from);
          to[i][l] = four.x, to[i + 1][l] = four.y, to[i + 2][l] = four.z, to[i + 3][l] = four.w;
        }
      }
    }
  }
}

template <class A, class B, class Shape>
__device__ __forceinline__ void multiply_tiles(const float* a, const float* b, int down, int across,
                                               float (&sums)[Shape::kHigh][Shape::kWide]) {
#pragma unroll 1  // or the next operands fill the registers
  for (int k = 0; k < Shape::kDepth; k += 4) {
    float left[Shape::kHigh][4];
    read_four<A, Shape::kHigh, Shape::kDown>(a, k, down, 0, left);
#pragma unroll
    for (int first = 0; first < Shape::kWide; first += 4) {
      float right[4][4];
      read_four<B, Shape::kWide, Shape::kAcross>(b, k, across, first, right);
#pragma unroll
      for (int l = 0; l < 4; ++l) {
#pragma unroll
        for (int i = 0; i < Shape::kHigh; ++i) {
#pragma unroll
          for (int j = 0; j < 4; ++j) {
            sums[i][first + j] = fmaf(left[i][l], right[j][l], sums[i][first + j]);
          }
        }
      }
    }
  }
}

/// Where a thread works: in which slice, and where in its grid.
template <class Shape>
struct Fp32Place {
  int slice, thread, down, across;
  __device__ Fp32Place() {
    const int all = static_cast<int>(threadIdx.x);
    slice = all / Shape::kSliceThreads;
    thread = all % Shape::kSliceThreads;
    const int warp = thread / 32;
    down = thread % 8 + warp % (Shape::kDown / 8) * 8;
    across = thread % 32 / 8 + warp / (Shape::kDown / 8) * 4;
  }
};

/// One part of k for each slice, from first_k on.
template <class Shape, Inner kA, Inner kB, bool kWide>
__device__ __forceinline__ void sum_parts(const Operand<float>& left, const Operand<float>& right,
                                          int first_k, const Fp32Place<Shape>& place,
                                          Fp32Shared<Shape, kA, kB>& s,
                                          float (&sums)[Shape::kHigh][Shape::kWide]) {
  using A = typename Fp32Shared<Shape, kA, kB>::A;
  using B = typename Fp32Shared<Shape, kA, kB>::B;
  constexpr int kAhead = Shape::kStages - 1;
  const int own = first_k + place.slice * kFp32Part;
  const int tiles = (min(kFp32Part, left.depth - first_k) + Shape::kDepth - 1) / Shape::kDepth;
  const auto load = [&](int tile) {
    if (tile < tiles) {
      const int stage = tile % Shape::kStages;
      const int k = own + tile * Shape::kDepth;
      A::template load<Shape::kSliceThreads, kWide>(left, k, s.ring.a[stage][place.slice],
                                                    place.thread);
      B::template load<Shape::kSliceThreads, kWide>(right, k, s.ring.b[stage][place.slice],
                                                    place.thread);
    }
    cp_async_commit();
  };
  for (int tile = 0; tile < kAhead; ++tile) {
    load(tile);
  }
  for (int tile = 0; tile < tiles; ++tile) {
    cp_async_wait<kAhead - 1>();
    __syncthreads();
    load(tile + kAhead);
    const int stage = tile % Shape::kStages;
    multiply_tiles<A, B, Shape>(s.ring.a[stage][place.slice], s.ring.b[stage][place.slice],
                                place.down, place.across, sums);
  }
}

template <class Shape, Inner kA, Inner kB>
__device__ __forceinline__ void join_parts(const Fp32Place<Shape>& place,
                                           const float (&sums)[Shape::kHigh][Shape::kWide],
                                           Fp32Shared<Shape, kA, kB>& s,
                                           float (&results)[Shape::kResults]) {
  __syncthreads();  // the ring has been read
#pragma unroll
  for (int i = 0; i < Shape::kHigh; ++i) {
    const int row = edge_of<kA, Shape::kHigh, Shape::kDown>(place.down, i);
#pragma unroll
    for (int j = 0; j < Shape::kWide; ++j) {
      s.parts[place.slice][row][edge_of<kB, Shape::kWide, Shape::kAcross>(place.across, j)] =
          sums[i][j];
    }
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < Shape::kResults; ++i) {
    const int at = static_cast<int>(threadIdx.x) + i * Shape::kThreads;
    for (int slice = 0; slice < Shape::kSlices; ++slice) {
      results[i] += s.parts[slice][at / Shape::kColumns][at % Shape::kColumns];
    }
  }
  __syncthreads();  // the parts have been read
}

template <class Shape, Inner kA, Inner kB, bool kWide>
__global__ void __launch_bounds__(Shape::kThreads, 1) fp32_product(const Product p) {
  auto& s = shared<Fp32Shared<Shape, kA, kB>>();
  Block block;
  if (!find_block(p, Shape::kRows, Shape::kColumns, block)) {
    return;
  }
  const auto left = left_of<float, kA>(p, block);
  const auto right = right_of<float, kB>(p, block);
  const Fp32Place<Shape> place;
  float results[Shape::kResults] = {};
  for (int k = 0; k < block.depth; k += Shape::kSlices * kFp32Part) {
    float sums[Shape::kHigh][Shape::kWide] = {};
    sum_parts<Shape, kA, kB, kWide>(left, right, k, place, s, sums);
    join_parts<Shape, kA, kB>(place, sums, s, results);
  }
  auto* const c = static_cast<float*>(p.c) + target_of(p, block);
#pragma unroll
  for (int i = 0; i < Shape::kResults; ++i) {
    const int at = static_cast<int>(threadIdx.x) + i * Shape::kThreads;
    const int row = at / Shape::kColumns;
    const int column = at % Shape::kColumns;
    if (row < block.rows && column < block.columns) {
      float* const element = c + row * p.c_stride + column;
      *element = (p.add ? *element : 0.0F) + results[i];
    }
  }
}

template <class Shape, Inner kA, Inner kB>
void launch_fp32(cudaStream_t stream, const Product& product) {
  const dim3 blocks = blocks_of(product, Shape::kRows, Shape::kColumns);
  constexpr std::size_t kBytes = sizeof(Fp32Shared<Shape, kA, kB>);
  if (product.wide) {
    launch(stream, fp32_product<Shape, kA, kB, true>, blocks, dim3(Shape::kThreads), kBytes,
           product);
  } else {
    launch(stream, fp32_product<Shape, kA, kB, false>, blocks, dim3(Shape::kThreads), kBytes,
           product);
  }
}

/// All four ways in which the operands may lie.
template <class Shape>
void launch_fp32(cudaStream_t stream, const Product& product) {
  const bool deep_a = product.a_inner == Inner::kDepth;
  const bool deep_b = product.b_inner == Inner::kDepth;
  if (deep_a && deep_b) {
    launch_fp32<Shape, Inner::kDepth, Inner::kDepth>(stream, product);
  } else if (deep_a) {
    launch_fp32<Shape, Inner::kDepth, Inner::kEdge>(stream, product);
  } else if (deep_b) {
    launch_fp32<Shape, Inner::kEdge, Inner::kDepth>(stream, product);
  } else {
    launch_fp32<Shape, Inner::kEdge, Inner::kEdge>(stream, product);
  }
}

using Fp32Medium = Fp32Shape<64, 64, 8, 8, 4, 3>;
using Fp32Small = Fp32Shape<32, 32, 4, 8, 8, 3>;
using Fp32Tiny = Fp32Shape<16, 16, 2, 4, 8, 6>;

void medium_fp32(cudaStream_t stream, const Product& product);
void small_fp32(cudaStream_t stream, const Product& product);
void tiny_fp32(cudaStream_t stream, const Product& product);

}  // namespace moesaic::cuda
