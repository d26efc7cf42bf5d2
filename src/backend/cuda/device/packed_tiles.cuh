#pragma once

#include <cuda_runtime.h>

#include "backend/cuda/device/packed_products.cuh"

// Many rows: each warp of a block multiplies panels of its own with 64 rows of x that all share. A
// ring in shared memory holds the next units of both.
namespace moesaic::cuda::packed {

constexpr int kManyTiles = 8;  // products side by side
constexpr int kManyRows = kColumns * kManyTiles;
constexpr int kWarpPanels = 2;
constexpr int kManyPanels = kWarpPanels * kProductWarps;  // of a block
constexpr int kStages = 4;

template <DType format>
struct ManyRowsShared {
  std::byte w[kStages][kProductWarps][kWarpPanels][kUnitBytes<format>];
  std::byte x[kStages][kManyRows][kUnit];
  RowScale scales[2][kManyRows];  // of a block along k, and of the next one
};

/// What a block of threads multiplies.
template <DType format>
struct ManyRows {
  const PackedProduct& p;
  ManyRowsShared<format>& s;
  RowTile tile;
  int first_panel;  // of the warp
  int units, blocks;

  __device__ const std::byte* block(int panel, int b) const {
    return p.panel(tile.group, first_panel + panel) + std::int64_t{b} * kBlockBytes<format>;
  }
  __device__ bool exists(int panel) const { return first_panel + panel < p.w.panels; }

  /// Begins to copy a unit, if there is one.
  __device__ __forceinline__ void fetch(int unit) const {
    if (unit < units) {
      const int stage = unit % kStages;
      const int row = static_cast<int>(threadIdx.x) / 4;
      const int part = static_cast<int>(threadIdx.x) % 4 * 16;
      const bool valid = tile.row + row < tile.end;
      const std::int64_t source = valid ? tile.row + row : tile.row;
      cp_async_16(&s.x[stage][row][part], p.x + source * p.depth + unit * kUnit + part, valid);
#pragma unroll
      for (int panel = 0; panel < kWarpPanels; ++panel) {
        const std::byte* const from = block(exists(panel) ? panel : 0, unit / kUnits) +
                                      kScaleBytes + unit % kUnits * kUnitBytes<format>;
        for (int i = lane_index() * 16; i < kUnitBytes<format>; i += kWarp * 16) {
          cp_async_16(&s.w[stage][warp_index()][panel][i], from + i, exists(panel));
        }
      }
    }
    cp_async_commit();
  }
  __device__ __forceinline__ void fetch_scales(int b) const {
    const int row = static_cast<int>(threadIdx.x);
    if (b < blocks && row < kManyRows) {
      const std::int64_t source = min(tile.row + row, tile.end - 1);
      s.scales[b % 2][row] = p.scales[source * blocks + b];
    }
  }
};

using ManySums = std::int32_t[kWarpPanels][kManyTiles][4];
using ManyTotals = float[kWarpPanels][kManyTiles][4];

template <DType format>
__device__ __forceinline__ void add_stage(const ManyRowsShared<format>& s, int stage,
                                          ManySums& sums) {
  std::uint32_t a[kWarpPanels][2][4];
#pragma unroll
  for (int panel = 0; panel < kWarpPanels; ++panel) {
    UnitWords<format> words;
    words.load(s.w[stage][warp_index()][panel]);
    words.decode(a[panel]);
  }
#pragma unroll
  for (int t = 0; t < kManyTiles; ++t) {
    const uint4 x = reinterpret_cast<const uint4*>(s.x[stage][t * kColumns])[lane_index()];
#pragma unroll
    for (int panel = 0; panel < kWarpPanels; ++panel) {
      add_unit(sums[panel][t], a[panel], x);
    }
  }
}

/// Adds the terms of a block along k to the totals, and begins new sums.
__device__ __forceinline__ void end_block(const RowScale (&x)[kManyRows],
                                          const float (&w)[kWarpPanels][2], ManySums& sums,
                                          ManyTotals& totals) {
#pragma unroll
  for (int t = 0; t < kManyTiles; ++t) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const RowScale scale = x[t * kColumns + lane_index() % 4 * 2 + i % 2];
#pragma unroll
      for (int panel = 0; panel < kWarpPanels; ++panel) {
        float& total = totals[panel][t][i];
        total = __fadd_rn(total, term_of(sums[panel][t][i], scale, w[panel][i / 2]));
        sums[panel][t][i] = 0;
      }
    }
  }
}

template <class C>
__device__ __forceinline__ void store_totals(const PackedProduct& p, const RowTile& tile,
                                             int first_panel, const ManyTotals& totals, C* y) {
#pragma unroll
  for (int panel = 0; panel < kWarpPanels; ++panel) {
#pragma unroll
    for (int t = 0; t < kManyTiles; ++t) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const std::int64_t row = tile.row + t * kColumns + lane_index() % 4 * 2 + i % 2;
        const std::int64_t n =
            std::int64_t{first_panel + panel} * kRows + lane_index() / 4 + i / 2 * (kRows / 2);
        if (row < tile.end && n < p.w.rows) {
          store(y + row * p.w.rows + n, totals[panel][t][i]);
        }
      }
    }
  }
}

/// A block of threads for each tile of at most kManyRows rows and kManyPanels panels; y (R, N).
template <DType format, class C>
__global__ void __launch_bounds__(kProductThreads) multiply_many(PackedProduct p, C* y) {
  const RowTile tile = p.tiles[blockIdx.x];
  if (tile.group < 0) {
    return;
  }
  auto& s = shared<ManyRowsShared<format>>();
  const ManyRows<format> work{
      .p = p,
      .s = s,
      .tile = tile,
      .first_panel = static_cast<int>(blockIdx.y) * kManyPanels + warp_index() * kWarpPanels,
      .units = p.w.units(),
      .blocks = p.w.blocks()};
  ManySums sums = {};
  ManyTotals totals = {};
  float scale[kWarpPanels][2] = {};
  work.fetch_scales(0);
#pragma unroll
  for (int unit = 0; unit < kStages - 1; ++unit) {
    work.fetch(unit);
  }
  for (int unit = 0; unit < work.units; ++unit) {
    cp_async_wait<kStages - 2>();
    __syncthreads();
    work.fetch(unit + kStages - 1);
    const int block = unit / kUnits;
    if (unit % kUnits == 0) {
      work.fetch_scales(block + 1);
#pragma unroll
      for (int panel = 0; panel < kWarpPanels; ++panel) {
        if (work.exists(panel)) {
          const auto* const w = reinterpret_cast<const float*>(work.block(panel, block));
          scale[panel][0] = w[lane_index() / 4];
          scale[panel][1] = w[lane_index() / 4 + kRows / 2];
        }
      }
    }
    add_stage<format>(s, unit % kStages, sums);
    if (unit % kUnits == kUnits - 1 || unit + 1 == work.units) {
      end_block(s.scales[block % 2], scale, sums, totals);
    }
  }
  store_totals(p, tile, work.first_panel, totals, y);
}

}  // namespace moesaic::cuda::packed
