#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <bit>
#include <cstdint>

#include "backend/cuda/cuda_backend.h"
#include "backend/cuda/device/launch.cuh"
#include "backend/cuda/device/warp.cuh"
#include "backend/cuda/grid.h"

// A stable counting sort of places by the number that each holds.
namespace moesaic::cuda {

constexpr int kSortBlock = 128;
constexpr int kSortWarps = kSortBlock / kWarp;
constexpr int kScanBlock = 256;
constexpr int kSelectBlock = 512;

/// The numbers that an expert may have are below this.
constexpr int kMostNumbers = 1 << 20;

/// The lanes that hold the same key, of so many bits.
__device__ __forceinline__ unsigned equal_lanes(int key, int bits) {
  unsigned same = kAllLanes;
  for (int bit = 0; bit < bits; ++bit) {
    const bool own = ((key >> bit) & 1) != 0;
    const unsigned set = __ballot_sync(kAllLanes, own);
    same &= own ? set : ~set;
  }
  return same;
}

struct ScanScratch {
  int warp[kMostWarps];
};
struct SumBefore {
  int before;  // of the values of the threads before this one
  int total;   // of all
};

/// Over the threads of a block (whole warps). The scratch may be used again at once.
__device__ __forceinline__ SumBefore sum_before(int value, ScanScratch& scratch) {
  int sum = value;
#pragma unroll
  for (int distance = 1; distance < kWarp; distance *= 2) {
    const int other = __shfl_up_sync(kAllLanes, sum, distance);
    sum += lane_index() >= distance ? other : 0;
  }
  if (lane_index() == kWarp - 1) {
    scratch.warp[warp_index()] = sum;
  }
  __syncthreads();
  SumBefore out{sum - value, 0};
  for (int warp = 0; warp < static_cast<int>(blockDim.x) / kWarp; ++warp) {
    out.before += warp < warp_index() ? scratch.warp[warp] : 0;
    out.total += scratch.warp[warp];
  }
  __syncthreads();
  return out;
}

/// The keys of places: numbers, -1 for none, or what a table has for them.
struct SortKeys {
  const std::int32_t* number;
  const std::int32_t* table;  // or null
};

/// How places are cut into chunks of a warp, and how keys are told apart.
struct SortCut {
  int places, keys;
  int chunk, chunks;  // places of a chunk, and chunks
  int bits;           // of a key, `keys` standing for none

  /// This lane's key at a place, `keys` if it has none.
  __device__ __forceinline__ int key(const SortKeys& of, int place, int end) const {
    const int number = place < end ? of.number[place] : -1;
    if (number < 0 || of.table == nullptr) {
      return number >= 0 && number < keys ? number : keys;
    }
    const int own = number < kMostNumbers ? of.table[number] : keys;
    return own >= 0 && own < keys ? own : keys;
  }
  /// Of a key in a chunk, in (keys, chunks).
  __device__ __forceinline__ std::int64_t slot(int key, int own_chunk) const {
    return static_cast<std::int64_t>(key) * chunks + own_chunk;
  }
};

/// How many places with this lane's key come before its own, counted on from *counter, which is the
/// key's alone and is raised by all of them.
__device__ __forceinline__ int take_rank(int key, bool counts, int bits, std::int32_t* counter) {
  const unsigned same = equal_lanes(key, bits);
  const int first = counts ? *counter : 0;
  __syncwarp();
  if (counts && lane_index() == __ffs(static_cast<int>(same)) - 1) {
    *counter = first + __popc(same);
  }
  __syncwarp();
  return first + __popc(same & ((1U << lane_index()) - 1U));
}

/// counts (keys, chunks). `copy` gets the numbers, unless null.
static __global__ void __launch_bounds__(kSortBlock)
    count_places(SortCut cut, SortKeys of, std::int32_t* counts, std::int32_t* copy) {
  const int chunk = static_cast<int>(blockIdx.x) * kSortWarps + warp_index();
  if (chunk >= cut.chunks) {
    return;
  }
  for (int key = lane_index(); key < cut.keys; key += kWarp) {
    counts[cut.slot(key, chunk)] = 0;
  }
  __syncwarp();
  const int begin = chunk * cut.chunk;
  const int end = begin + cut.chunk < cut.places ? begin + cut.chunk : cut.places;
  for (int place = begin + lane_index(); place - lane_index() < end; place += kWarp) {
    const int key = cut.key(of, place, end);
    const bool is_one = key < cut.keys;
    take_rank(key, is_one, cut.bits, is_one ? counts + cut.slot(key, chunk) : nullptr);
    if (copy != nullptr && place < end) {
      copy[place] = of.number[place];
    }
  }
}

struct ScanShared {
  ScanScratch scan;
};

/// Sums of n numbers before each, in place or elsewhere; the sum of all comes back.
__device__ __forceinline__ int scan_row(const std::int32_t* from, int n, std::int32_t* to,
                                        ScanScratch& scratch) {
  int before = 0;
  for (int begin = 0; begin < n; begin += kScanBlock) {
    const int i = begin + static_cast<int>(threadIdx.x);
    const SumBefore sum = sum_before(i < n ? from[i] : 0, scratch);
    if (i < n) {
      to[i] = before + sum.before;
    }
    before += sum.total;
  }
  return before;
}

/// A block a key: counts (keys, chunks) become those of the chunks before; totals (keys).
static __global__ void __launch_bounds__(kScanBlock)
    scan_chunks(SortCut cut, std::int32_t* counts, std::int32_t* totals) {
  auto& s = shared<ScanShared>();
  std::int32_t* const row = counts + cut.slot(static_cast<int>(blockIdx.x), 0);
  const int total = scan_row(row, cut.chunks, row, s.scan);
  if (threadIdx.x == 0) {
    totals[blockIdx.x] = total;
  }
}

/// One block: first (keys + 1), where each key begins, and behind the last one the end.
static __global__ void __launch_bounds__(kScanBlock)
    scan_keys(SortCut cut, const std::int32_t* totals, std::int32_t* first) {
  auto& s = shared<ScanShared>();
  const int end = scan_row(totals, cut.keys, first, s.scan);
  if (threadIdx.x == 0) {
    first[cut.keys] = end;
  }
}

/// put(place, row) for each place; row -1: it has no key.
template <class Put>
__global__ void __launch_bounds__(kSortBlock)
    put_places(SortCut cut, SortKeys of, std::int32_t* counts, const std::int32_t* first, Put put) {
  const int chunk = static_cast<int>(blockIdx.x) * kSortWarps + warp_index();
  if (chunk >= cut.chunks) {
    return;
  }
  const int begin = chunk * cut.chunk;
  const int end = begin + cut.chunk < cut.places ? begin + cut.chunk : cut.places;
  for (int place = begin + lane_index(); place - lane_index() < end; place += kWarp) {
    const int key = cut.key(of, place, end);
    const bool is_one = key < cut.keys;
    const int rank =
        take_rank(key, is_one, cut.bits, is_one ? counts + cut.slot(key, chunk) : nullptr);
    if (place < end) {
      put(place, is_one ? first[key] + rank : -1);
    }
  }
}

/// The kernels in their order. Numbers are read by both steps.
class CountingSort {
 public:
  CountingSort(CudaBackend& backend, std::int64_t places, int keys)
      : backend_(backend), cut_(cut_of(places, keys)) {
    counts_ = backend.empty(DType::kI32, {cut_.chunks, keys});
  }

  /// totals (keys); `copy` gets the numbers, unless null.
  void count(const SortKeys& of, std::int32_t* copy, std::int32_t* totals) const {
    launch(backend_.stream(), count_places, grid_of(ceil_div(cut_.chunks, kSortWarps)), kSortBlock,
           0, cut_, of, counts(), copy);
    launch(backend_.stream(), scan_chunks, grid_of(cut_.keys), kScanBlock, sizeof(ScanShared), cut_,
           counts(), totals);
  }
  /// Behind count(): first (keys + 1), and put(place, row) for each place.
  template <class Put>
  void put(const SortKeys& of, const std::int32_t* totals, std::int32_t* first,
           const Put& put) const {
    launch(backend_.stream(), scan_keys, 1, kScanBlock, sizeof(ScanShared), cut_, totals, first);
    launch(backend_.stream(), put_places<Put>, grid_of(ceil_div(cut_.chunks, kSortWarps)),
           kSortBlock, 0, cut_, of, counts(), first, put);
  }

 private:
  // Chunks are short, unless there are so many keys that the counts would fill the memory.
  static SortCut cut_of(std::int64_t places, int keys) {
    constexpr std::int64_t kLeastChunk = 256;
    constexpr std::int64_t kMostCounts = std::int64_t{1} << 22;
    require(places < std::int64_t{1} << 30, "a dispatch plan has 2^30 places at most");
    const std::int64_t most = std::max<std::int64_t>(1, kMostCounts / std::max(1, keys));
    const std::int64_t chunk =
        std::max(kLeastChunk, ceil_div(ceil_div(places, most), kWarp) * kWarp);
    return {.places = static_cast<int>(places),
            .keys = keys,
            .chunk = static_cast<int>(chunk),
            .chunks = static_cast<int>(ceil_div(places, chunk)),
            .bits = static_cast<int>(std::bit_width(static_cast<unsigned>(keys)))};
  }

  std::int32_t* counts() const { return device<std::int32_t>(counts_); }

  CudaBackend& backend_;
  SortCut cut_;
  Tensor counts_;
};

}  // namespace moesaic::cuda
