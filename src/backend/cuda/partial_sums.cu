#include "backend/cuda/device/launch.cuh"
#include "backend/cuda/device/warp.cuh"
#include "backend/cuda/partial_sums.h"

namespace moesaic::cuda {
namespace {

constexpr int kWarps = 16;  // of a block; a block has a warp's width of columns

struct PartialShared {
  float sums[kWarps][kWarp];
};

__global__ void __launch_bounds__(kWarps* kWarp)
    join_parts(const float* parts, std::int64_t count, std::int64_t columns, float* sums) {
  auto& s = shared<PartialShared>();
  const std::int64_t column = static_cast<std::int64_t>(blockIdx.x) * kWarp + lane_index();
  float total = 0.0F;
  if (column < columns) {
#pragma unroll 8
    for (std::int64_t part = warp_index(); part < count; part += kWarps) {
      total += parts[part * columns + column];
    }
  }
  s.sums[warp_index()][lane_index()] = total;
  __syncthreads();
  if (warp_index() == 0 && column < columns) {
#pragma unroll
    for (int warp = 1; warp < kWarps; ++warp) {
      total += s.sums[warp][lane_index()];
    }
    sums[column] += total;
  }
}

}  // namespace

void add_partial_sums(cudaStream_t stream, const float* parts, std::int64_t count,
                      std::int64_t columns, float* sums) {
  const dim3 grid(static_cast<unsigned>((columns + kWarp - 1) / kWarp));
  launch(stream, join_parts, grid, kWarps * kWarp, sizeof(PartialShared), parts, count, columns,
         sums);
}

}  // namespace moesaic::cuda
