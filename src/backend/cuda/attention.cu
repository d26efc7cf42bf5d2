#include "backend/cuda/attention_forms.h"
#include "backend/cuda/cuda_backend.h"
#include "backend/cuda/device/attention_rows.cuh"
#include "backend/cuda/device/attention_simt.cuh"

namespace moesaic::cuda {
namespace {

// Tile i of the rows: the last first, as it sees the most where attention is causal.
__device__ QueryTile tile_of(int rows, int tile_rows, int head) {
  const int row = (static_cast<int>(gridDim.x) - 1 - static_cast<int>(blockIdx.x)) * tile_rows;
  return {row, head, 0, min(tile_rows, rows - row), 1};
}

// Calls work(keys, first key, seen) with each stretch of the tile's rows, whose ranges lie in
// shared memory.
template <class T, class Work>
__device__ void for_stretches(const AttentionCall<T>& call, const QueryTile& tile, int tile_rows,
                              int* first, const Work& work) {
  for (int begin = 0; begin < tile.count;) {
    const int end = end_of_stretch(call, tile, begin);
    const int row = tile.row + begin;
    load_ranges(call, tile, begin, end, first, first + tile_rows, tile_rows);
    __syncthreads();
    const Seen seen = seen_by(first, first + tile_rows, tile_rows);
    if (seen.least_first < seen.most_last) {
      const int origin = call.origin != nullptr ? call.origin[row] : 0;
      work(keys_of(call, tile.head, row), first_of_tile(seen.least_first, origin), seen);
    }
    __syncthreads();
    begin = end;
  }
}

template <class F>
__global__ void __launch_bounds__(F::kThreads, F::kLeastBlocks)
    attend_rows(AttentionCall<BFloat16> call, MmaLayout layout) {
  const MmaShared s{&shared<std::byte>(), layout};
  const QueryTile tile = tile_of(call.rows, F::kRows, static_cast<int>(blockIdx.y));
  const float scale_log2 = call.scale * kLog2E;
  copy_queries<F>(call, tile, s);
  MmaRows<F> rows;
  rows.clear();
  take_over(call, tile, rows);
  for_stretches(call, tile, F::kRows, s.first(),
                [&](const RowKeys<BFloat16>& keys, int key, const Seen& seen) {
                  attend_tiles<F>(s, keys, call.head_dim, call.v_dim, scale_log2, key, seen, rows);
                });
  cp_async_wait<0>();
  hand_over(call, tile, 0, rows);
}

template <class T>
__global__ void __launch_bounds__(kSimtThreads, 3) attend_rows_simt(AttentionCall<T> call) {
  auto& s = shared<SimtShared>();
  const QueryTile tile = tile_of(call.rows, kSimtRows, static_cast<int>(blockIdx.z));
  const float scale_log2 = call.scale * kLog2E;
  SimtColumns columns;
  clear(s, columns);
  take_over(call, tile, s, columns);
  for_stretches(call, tile, kSimtRows, s.ranges,
                [&](const RowKeys<T>& keys, int key, const Seen& seen) {
                  attend_tiles(call, tile, keys, scale_log2, key, seen, s, columns);
                });
  hand_over(call, tile, 0, s, columns);
}

// A warp takes a row of (T, H).
constexpr int kRowThreads = 256;
__device__ std::int64_t row_of_warp() {
  return static_cast<std::int64_t>(blockIdx.x) * (kRowThreads / kWarp) + warp_index();
}
dim3 warps_for(std::int64_t rows) {
  constexpr std::int64_t kRows = kRowThreads / kWarp;
  return dim3(static_cast<unsigned>((rows + kRows - 1) / kRows));
}

struct Sums {
  float *values, *top, *total;
};
Sums sums_at(const AttentionSums& sums) {
  return {device<float>(sums.values), device<float>(sums.top), device<float>(sums.total)};
}

__global__ void __launch_bounds__(kRowThreads)
    merge_rows(Sums more, Sums sums, std::int64_t rows, int width, float scale_log2) {
  const std::int64_t row = row_of_warp();
  if (row >= rows) {
    return;
  }
  const Joined joined = join_tops(sums.top[row], more.top[row], scale_log2);
  const float total = join_sums(sums.total[row], more.total[row], joined);
  __syncwarp();
  if (lane_index() == 0) {
    sums.top[row] = joined.top;
    sums.total[row] = total;
  }
  for (std::int64_t i = row * width + lane_index(); i < (row + 1) * width; i += kWarp) {
    sums.values[i] = join_sums(sums.values[i], more.values[i], joined);
  }
}

template <class T>
__global__ void __launch_bounds__(kRowThreads)
    finish_rows(Sums sums, T* out, float* lse, std::int64_t rows, int width, float scale) {
  const std::int64_t row = row_of_warp();
  if (row >= rows) {
    return;
  }
  const float top = sums.top[row];
  const float total = sums.total[row];
  const float inverse = inverse_of(top, total);
  for (std::int64_t i = row * width + lane_index(); i < (row + 1) * width; i += kWarp) {
    store(out + i, sums.values[i] * inverse);
  }
  if (lane_index() == 0) {
    lse[row] = lse_of(top, total, scale);
  }
}

template <class T>
void attend_plainly(const CudaBackend& backend, const AttentionCall<T>& call) {
  launch(backend.stream(), attend_rows_simt<T>,
         simt_grid(call, tiles_of(call.rows, kSimtRows), call.heads), dim3(kSimtThreads),
         sizeof(SimtShared), call);
}

void attend(const CudaBackend& backend, const AttentionCall<float>& call) {
  attend_plainly(backend, call);
}
void attend(const CudaBackend& backend, const AttentionCall<BFloat16>& call) {
  const bool fits =
      with_form(call.head_dim, call.v_dim, true, [&](auto form, const MmaLayout& layout) {
        using F = decltype(form);
        const dim3 grid(static_cast<unsigned>(tiles_of(call.rows, F::kRows)),
                        static_cast<unsigned>(call.heads));
        launch(backend.stream(), attend_rows<F>, grid, dim3(F::kThreads),
               static_cast<std::size_t>(layout.bytes), call, layout);
      });
  if (!fits) {
    attend_plainly(backend, call);
  }
}

}  // namespace

void CudaBackend::attention(const HeadRows& q, const KeyRows& keys, const VisibleKeys& visible,
                            float scale, const Tensor& out, const Tensor& lse) {
  with_type(q.rows.dtype(), [&](auto type) {
    using T = decltype(type);
    attend(*this, call_of<T>(q, keys, visible, scale, result_target<T>(out, lse)));
  });
}

void CudaBackend::attention_part(const HeadRows& q, const KeyRows& keys, const VisibleKeys& visible,
                                 float scale, const AttentionSums& sums, Write write) {
  with_type(q.rows.dtype(), [&](auto type) {
    using T = decltype(type);
    AttentionCall<T> call =
        call_of<T>(q, keys, visible, scale, sums_target<T>(sums, write == Write::kAdd));
    const BeforeSums before = copy_before(*this, call, sums);
    attend(*this, call);
  });
}

void CudaBackend::merge_attention(const AttentionSums& more, float scale,
                                  const AttentionSums& sums) {
  const std::int64_t rows = sums.top.numel();
  launch(stream(), merge_rows, warps_for(rows), dim3(kRowThreads), 0, sums_at(more), sums_at(sums),
         rows, static_cast<int>(sums.values.dim(2)), scale * kLog2E);
}

void CudaBackend::attention_result(const AttentionSums& sums, float scale, const Tensor& out,
                                   const Tensor& lse) {
  const std::int64_t rows = lse.numel();
  with_type(out.dtype(), [&](auto type) {
    using T = decltype(type);
    launch(stream(), finish_rows<T>, warps_for(rows), dim3(kRowThreads), 0, sums_at(sums),
           device<T>(out), device<float>(lse), rows, static_cast<int>(sums.values.dim(2)), scale);
  });
}

}  // namespace moesaic::cuda
