#pragma once

#include <cuda_runtime.h>

#include "backend/cuda/device/launch.cuh"
#include "backend/cuda/device/packed_rows.cuh"
#include "backend/cuda/device/ptx.cuh"

// y = x w^T of packed weights with rounded rows. Rows of w are the 16 rows of a product of a warp,
// rows of x its 8 columns. A block's sum is an integer, exact in any order; it becomes a float by
// three rounded operations, and these are added in the order of k: a row has the bits of the CPU's
// kernels (cpu/kernels/packed.h) wherever it lies.
namespace moesaic::cuda::packed {

constexpr int kProductThreads = 256;
constexpr int kProductWarps = kProductThreads / kWarp;
constexpr int kColumns = 8;  // rows of x of a product

struct PackedProduct {
  PackedPanels w;
  const std::byte* x;      // rounded rows (R, depth)
  const RowScale* scales;  // (R, blocks)
  const RowTile* tiles;
  std::int64_t depth;

  __device__ const std::byte* panel(int group, int index) const {
    return w.bytes + (group * w.panels + index) * w.panel_bytes;
  }
};

/// What a lane reads of a unit.
template <DType format>
struct UnitWords;
template <>
struct UnitWords<DType::kInt8> {
  uint4 products[2];

  __device__ __forceinline__ void load(const std::byte* unit) {
    products[0] = reinterpret_cast<const uint4*>(unit)[lane_index()];
    products[1] = reinterpret_cast<const uint4*>(unit + kProductBytes)[lane_index()];
  }
  __device__ __forceinline__ void decode(std::uint32_t (&a)[2][4]) const {
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      a[j][0] = products[j].x, a[j][1] = products[j].y;
      a[j][2] = products[j].z, a[j][3] = products[j].w;
    }
  }
};
template <>
struct UnitWords<DType::kInt4> {
  std::uint32_t pairs;  // s, m of the lane's first row, and of its second
  uint4 codes;

  __device__ __forceinline__ void load(const std::byte* unit) {
    pairs = reinterpret_cast<const std::uint32_t*>(unit)[lane_index() / 2];
    codes = reinterpret_cast<const uint4*>(unit + kPairBytes<DType::kInt4>)[lane_index()];
  }
  /// u = q s + m of four numbers at once: no byte exceeds 255.
  __device__ __forceinline__ void decode(std::uint32_t (&a)[2][4]) const {
    const std::uint32_t s[2] = {pairs & 0xffU, pairs >> 16U & 0xffU};
    const std::uint32_t m[2] = {(pairs >> 8U & 0xffU) * 0x01010101U, (pairs >> 24U) * 0x01010101U};
    const std::uint32_t words[4] = {codes.x, codes.y, codes.z, codes.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      a[0][i] = (words[i] & 0x0f0f0f0fU) * s[i % 2] + m[i % 2];
      a[1][i] = (words[i] >> 4U & 0x0f0f0f0fU) * s[i % 2] + m[i % 2];
    }
  }
};

/// Adds the products of a unit; x: the lane's 16 bytes of its row of x.
__device__ __forceinline__ void add_unit(std::int32_t (&sums)[4], const std::uint32_t (&a)[2][4],
                                         const uint4& x) {
  const std::uint32_t b[2][2] = {{x.x, x.y}, {x.z, x.w}};
  mma_u8s8(sums, a[0], b[0]);
  mma_u8s8(sums, a[1], b[1]);
}

/// A block's sum as a float.
__device__ __forceinline__ float term_of(std::int32_t sum, const RowScale& x, float w) {
  return __fmul_rn(__fmul_rn(__int2float_rn(sum + x.correction), x.scale), w);
}

// --- Few rows: the warps of a block share out the blocks along k of one panel.

constexpr int kTermStride = kRows + 4;  // so that a warp's stores meet no bank twice

/// The terms of a block along k for each warp, twice: they are added while the next ones come.
template <int tiles>
struct FewRowsShared {
  float terms[2][kProductWarps][kColumns * tiles][kTermStride];
};

/// A lane's part of a block of a panel, in registers from long before it is multiplied.
template <DType format>
struct BlockWords {
  UnitWords<format> units[kUnits];
  float scale[2] = {};

  __device__ __forceinline__ void load(const std::byte* block, int count) {
    const auto* const scales = reinterpret_cast<const float*>(block);
    scale[0] = scales[lane_index() / 4];
    scale[1] = scales[lane_index() / 4 + kRows / 2];
#pragma unroll
    for (int u = 0; u < kUnits; ++u) {
      if (u < count) {
        units[u].load(block + kScaleBytes + u * kUnitBytes<format>);
      }
    }
  }
};

/// Where a lane's rows of x lie: of each product its row lane / 4, or the tile's last one.
template <int tiles>
struct LaneRows {
  const std::byte* at[tiles];

  __device__ LaneRows(const PackedProduct& p, const RowTile& tile) {
#pragma unroll
    for (int t = 0; t < tiles; ++t) {
      const int row = min(tile.row + t * kColumns + lane_index() / 4, tile.end - 1);
      at[t] = p.x + row * p.depth + lane_index() % 4 * 16;
    }
  }
};

template <DType format, int tiles>
__device__ __forceinline__ void add_block(std::int32_t (&sums)[tiles][4],
                                          const BlockWords<format>& w, int units,
                                          const LaneRows<tiles>& x, int block) {
#pragma unroll
  for (int u = 0; u < kUnits; ++u) {
    if (u < units) {
      std::uint32_t a[2][4];
      w.units[u].decode(a);
#pragma unroll
      for (int t = 0; t < tiles; ++t) {
        add_unit(sums[t], a, *reinterpret_cast<const uint4*>(x.at[t] + block * kBlock + u * kUnit));
      }
    }
  }
}

/// Writes the terms of a block, as rows of x.
template <int tiles>
__device__ __forceinline__ void store_terms(float (&terms)[kColumns * tiles][kTermStride],
                                            const std::int32_t (&sums)[tiles][4],
                                            const float (&scale)[2], const PackedProduct& p,
                                            const RowTile& tile, int block, int blocks) {
  const int panel_row = lane_index() / 4;
#pragma unroll
  for (int t = 0; t < tiles; ++t) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int column = t * kColumns + lane_index() % 4 * 2 + i;
      const std::int64_t row = min(tile.row + column, tile.end - 1);
      const RowScale x = p.scales[row * blocks + block];
      terms[column][panel_row] = term_of(sums[t][i], x, scale[0]);
      terms[column][panel_row + kRows / 2] = term_of(sums[t][2 + i], x, scale[1]);
    }
  }
}

/// A block of threads for each tile of at most 8 `tiles` rows and panel; y (R, N).
template <DType format, int tiles, class C>
__global__ void __launch_bounds__(kProductThreads) multiply_few(PackedProduct p, C* y) {
  constexpr int kOutputs = kRows * kColumns * tiles;
  constexpr int kOwn = (kOutputs + kProductThreads - 1) / kProductThreads;
  auto& s = shared<FewRowsShared<tiles>>();
  const RowTile tile = p.tiles[blockIdx.x];
  if (tile.group < 0) {
    return;
  }
  const int panel = static_cast<int>(blockIdx.y);
  const int blocks = p.w.blocks();
  const int units = p.w.units();
  const std::byte* const w = p.panel(tile.group, panel);
  const LaneRows<tiles> x(p, tile);
  BlockWords<format> words;
  int block = warp_index();
  if (block < blocks) {
    words.load(w + std::int64_t{block} * kBlockBytes<format>, units - block * kUnits);
  }
  float totals[kOwn] = {};
  for (int first = 0; first < blocks; first += kProductWarps, block += kProductWarps) {
    auto& terms = s.terms[first / kProductWarps % 2];
    if (block < blocks) {
      std::int32_t sums[tiles][4] = {};
      add_block<format, tiles>(sums, words, units - block * kUnits, x, block);
      const float scale[2] = {words.scale[0], words.scale[1]};
      const int next = block + kProductWarps;
      if (next < blocks) {
        words.load(w + std::int64_t{next} * kBlockBytes<format>, units - next * kUnits);
      }
      store_terms<tiles>(terms[warp_index()], sums, scale, p, tile, block, blocks);
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
      const int output = static_cast<int>(threadIdx.x) + i * kProductThreads;
      for (int b = 0; b < min(kProductWarps, blocks - first) && output < kOutputs; ++b) {
        totals[i] = __fadd_rn(totals[i], terms[b][output / kRows][output % kRows]);
      }
    }
  }
#pragma unroll
  for (int i = 0; i < kOwn; ++i) {
    const int output = static_cast<int>(threadIdx.x) + i * kProductThreads;
    const std::int64_t row = tile.row + output / kRows;
    const std::int64_t n = std::int64_t{panel} * kRows + output % kRows;
    if (output < kOutputs && row < tile.end && n < p.w.rows) {
      store(y + row * p.w.rows + n, totals[i]);
    }
  }
}

}  // namespace moesaic::cuda::packed
