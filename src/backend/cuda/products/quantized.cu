#include <algorithm>
#include <limits>
#include <vector>

#include "backend/cuda/cuda_backend.h"
#include "backend/cuda/device/int4_levels.cuh"
#include "backend/cuda/device/launch.cuh"
#include "backend/cuda/device/packed.cuh"
#include "backend/cuda/device/warp.cuh"
#include "backend/cuda/products/packed.h"

// Quantized weights: from numbers, to numbers, from and to codes as files hold them.
namespace moesaic::cuda {

using namespace packed;

namespace {

constexpr int kThreads = 256;

dim3 grid_of(std::int64_t threads) {
  return dim3(static_cast<unsigned>(packed_parts(threads, kThreads)));
}

// --- Numbers that cannot be packed.

constexpr int kSearchBlocks = 512;

struct Smaller {
  __device__ std::int64_t operator()(std::int64_t a, std::int64_t b) const { return b < a ? b : a; }
};

// first[block]: of the numbers that it looks at, the place of the first one that is not finite or
// is less than the least; count: there is none.
__global__ void __launch_bounds__(kThreads)
    find_bad(const float* x, std::int64_t count, float least, std::int64_t* first) {
  auto& scratch = shared<BlockScratch<std::int64_t>>();
  std::int64_t place = count;
  const std::int64_t stride = std::int64_t{kThreads} * gridDim.x;
  for (std::int64_t i = std::int64_t{kThreads} * blockIdx.x + threadIdx.x; i < count; i += stride) {
    if (place == count && (!isfinite(x[i]) || x[i] < least)) {
      place = i;
    }
  }
  place = block_join(place, scratch, Smaller());
  if (threadIdx.x == 0) {
    first[blockIdx.x] = place;
  }
}

// The first number that is not finite or is less than the least; waits for the device.
std::optional<BadNumber> first_bad(CudaBackend& backend, const Tensor& x, float least) {
  const std::int64_t count = x.numel();
  const std::int64_t blocks = std::min<std::int64_t>(packed_parts(count, kThreads), kSearchBlocks);
  if (blocks == 0) {
    return std::nullopt;
  }
  const Tensor found = backend.empty(DType::kI32, {2 * blocks});
  launch(backend.stream(), find_bad, dim3(static_cast<unsigned>(blocks)), kThreads,
         sizeof(BlockScratch<std::int64_t>), device<float>(x), count, least,
         reinterpret_cast<std::int64_t*>(found.data()));
  std::vector<std::int64_t> first(static_cast<std::size_t>(blocks));
  backend.download(found, std::as_writable_bytes(std::span(first)));
  const std::int64_t place = *std::min_element(first.begin(), first.end());
  if (place == count) {
    return std::nullopt;
  }
  BadNumber bad{place, 0.0F};
  backend.download(x.reshaped({count}).rows(place, 1),
                   std::as_writable_bytes(std::span(&bad.value, 1)));
  return bad;
}

void check_numbers(CudaBackend& backend, const Tensor& w, const Tensor& mean_squares) {
  if (mean_squares.defined()) {
    check_mean_squares(mean_squares, w.dim(0), w.dim(2));
    if (const auto bad = first_bad(backend, mean_squares, 0.0F)) {
      throw bad_mean_square(*bad, w.dim(2));
    }
  }
  if (const auto bad = first_bad(backend, w, -std::numeric_limits<float>::max())) {
    throw bad_weight(*bad, w.shape());
  }
}

// --- Codes of numbers.

struct Source {
  const float* w;
  const float* mean_squares;  // nullptr: all the same
  std::int64_t group_stride;  // of mean_squares
};

// Number k of a row of the source, 0 where there is none.
__device__ float number_of(const PackedPanels& to, const Source& from, std::int64_t source_row,
                           std::int64_t k) {
  return source_row >= 0 && k < to.columns ? from.w[source_row * to.columns + k] : 0.0F;
}

// A warp for each row of a panel and block.
__global__ void __launch_bounds__(kThreads)
    pack_int8(PackedPanels to, Source from, std::int64_t all_rows) {
  const int blocks = to.blocks();
  const std::int64_t item = std::int64_t{blockIdx.x} * (kThreads / kWarp) + warp_index();
  if (item >= all_rows * blocks) {
    return;
  }
  const std::int64_t row = item / blocks;
  const int block = static_cast<int>(item % blocks);
  const int unit = lane_index() / kPlaces;
  const Eight eight{static_cast<int>(row % kRows), lane_index() % kPlaces};
  const std::int64_t begin = std::int64_t{block} * kBlock + unit * kUnit + eight.k();
  float w[8];
  float largest = 0.0F;
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    w[i] = number_of(to, from, to.source_row(row), begin + step_of(i));
    largest = fmaxf(largest, fabsf(w[i]));
  }
  const float d = __fdiv_rn(warp_max(largest), 127.0F);
  Codes codes{0, 0};
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const float level = d > 0.0F ? nearest(__fdiv_rn(w[i], d)) : 0.0F;
    codes.set(i, static_cast<int>(within(level, -127.0F, 127.0F)) + kZeroLevel);
  }
  std::byte* const out = to.block<DType::kInt8>(row, block);
  if (lane_index() == 0) {
    reinterpret_cast<float*>(out)[eight.row] = d;
  }
  if (block * kUnits + unit < to.units()) {
    store_codes<DType::kInt8>(unit_of<DType::kInt8>(out, unit), eight, codes);
  }
}

// The sum over eight neighbouring lanes.
__device__ float largest_of_eight(float value) {
#pragma unroll
  for (int distance = 4; distance > 0; distance /= 2) {
    value = fmaxf(value, __shfl_xor_sync(kAllLanes, value, distance));
  }
  return value;
}
// In the order of the lanes; the first `count` of them count.
__device__ double sum_of_groups(double value, int count) {
  double total = 0.0;
#pragma unroll
  for (int g = 0; g < 8; ++g) {
    const double of_group = __shfl_sync(kAllLanes, value, lane_index() / 8 * 8 + g);
    total = g < count ? __dadd_rn(total, of_group) : total;
  }
  return total;
}

// The best levels of a block, of which this lane has a group; d becomes theirs.
__device__ Levels levels_of_block(const float (&w)[kGroup], const ErrorWeights& weights, int groups,
                                  float& d) {
  const float first = d;
  Levels best;
  double best_error = 0.0;
#pragma unroll 1
  for (int attempt = 0; attempt < 3; ++attempt) {
    const float unit = attempt == 0 ? first : __fmul_rn(first, attempt == 1 ? 0.94F : 1.06F);
    const Levels levels = best_levels(w, weights, unit);
    const double mean = __dmul_rn(static_cast<double>(levels.error), weights.unit);
    const double error = sum_of_groups(__dmul_rn(__dmul_rn(mean, unit), unit), groups);
    if (attempt == 0 || error < best_error) {
      best = levels;
      best_error = error;
      d = unit;
    }
  }
  return best;
}

// Eight lanes for each row of a panel and block, one for each group of 32.
__global__ void __launch_bounds__(kThreads)
    pack_int4(PackedPanels to, Source from, std::int64_t all_rows) {
  const int blocks = to.blocks();
  const std::int64_t last = all_rows * blocks - 1;
  const std::int64_t item = (std::int64_t{blockIdx.x} * kThreads + threadIdx.x) / 8;
  const bool exists = item <= last;
  const std::int64_t row = min(item, last) / blocks;
  const int block = static_cast<int>(min(item, last) % blocks);
  const int group = lane_index() % 8;
  const int groups = min(kUnits, to.units() - block * kUnits) * 2;
  const std::int64_t begin = std::int64_t{block} * kBlock + group * kGroup;
  const std::int64_t source_row = to.source_row(row);
  float w[kGroup];
  float weight[kGroup];
  float largest = 0.0F;
#pragma unroll
  for (int i = 0; i < kGroup; ++i) {
    const std::int64_t k = begin + i;
    w[i] = number_of(to, from, source_row, k);
    largest = fmaxf(largest, fabsf(w[i]));
    weight[i] = k >= to.columns ? 0.0F : 1.0F;
    if (from.mean_squares != nullptr && k < to.columns) {
      weight[i] = from.mean_squares[row / (to.panels * kRows) * from.group_stride + k];
    }
  }
  const ErrorWeights weights(weight);
  float d = __fdiv_rn(largest_of_eight(largest), 127.0F);
  const bool zero = !(d > 0.0F);
  d = zero ? 1.0F : d;
  const Levels found = levels_of_block(w, weights, groups, d);
  const Levels levels = zero ? Levels() : found;
  if (!exists || group >= groups) {
    return;
  }
  std::byte* const out = to.block<DType::kInt4>(row, block);
  std::byte* const unit = unit_of<DType::kInt4>(out, group / 2);
  const int lane_row = static_cast<int>(row % kRows);
  if (group == 0) {
    reinterpret_cast<float*>(out)[lane_row] = zero ? 0.0F : d;
  }
  *pair_at(unit, {lane_row, group % 2 * 4}) = {static_cast<std::uint8_t>(levels.s),
                                               static_cast<std::uint8_t>(levels.m)};
#pragma unroll
  for (int p = 0; p < 4; ++p) {
    Codes codes{0, 0};
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const float x = w[p / 2 * 16 + p % 2 * 4 + step_of(i)];
      codes.set(i, static_cast<int>(levels.code(zero ? 128.0F : in_units(x, d))));
    }
    store_codes<DType::kInt4>(unit, {lane_row, group % 2 * 4 + p}, codes);
  }
}

// --- Numbers of codes.

// Eight numbers for each thread. all_rows: of panels.
template <DType format>
__global__ void __launch_bounds__(kThreads)
    unpack_panels(PackedPanels from, std::int64_t all_rows, float* w) {
  const Item item(std::int64_t{kThreads} * blockIdx.x + threadIdx.x, from.units());
  const std::int64_t source_row = item.row < all_rows ? from.source_row(item.row) : -1;
  if (source_row < 0) {
    return;
  }
  const Eight eight = item.eight();
  std::byte* const block = from.block<format>(item.row, item.unit / kUnits);
  std::byte* const unit = unit_of<format>(block, item.unit % kUnits);
  const float d = reinterpret_cast<const float*>(block)[eight.row];
  const Codes codes = codes_at<format>(unit, eight);
  const Pair pair = format == DType::kInt4 ? *pair_at(unit, eight) : Pair{1, 0};
  const std::int64_t begin = std::int64_t{item.unit} * kUnit + eight.k();
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const std::int64_t k = begin + step_of(i);
    if (k < from.columns) {
      const int level = codes[i] * pair.s + pair.m - kZeroLevel;
      w[source_row * from.columns + k] = __fmul_rn(d, static_cast<float>(level));
    }
  }
}

}  // namespace

// bf16 weights are best read as tensors (matmul.cu): packing them would save no byte.
std::optional<DType> CudaBackend::inference_format(DType /*compute*/) const { return std::nullopt; }

PackedWeights CudaBackend::pack(DType format, const Tensor& w, const Tensor& mean_squares) {
  PackedWeights packed = new_packed(*this, format, w.shape());
  check_numbers(*this, w, mean_squares);
  if (format == DType::kBf16) {
    convert(w, bf16_matrix(packed));
    return packed;
  }
  const PackedPanels to = panels_of(packed);
  const bool weighs = mean_squares.defined();
  const Source from{
      .w = device<float>(w),
      .mean_squares = weighs ? device<float>(mean_squares) : nullptr,
      .group_stride = weighs && mean_squares.numel() != packed.columns ? packed.columns : 0};
  const std::int64_t all_rows = packed.groups * to.panels * kRows;
  const std::int64_t items = all_rows * packed_blocks(packed.columns);
  if (format == DType::kInt8) {
    launch(stream(), pack_int8, grid_of(items * kWarp), kThreads, 0, to, from, all_rows);
  } else {
    launch(stream(), pack_int4, grid_of(items * 8), kThreads, 0, to, from, all_rows);
  }
  return packed;
}

void CudaBackend::unpack(const PackedWeights& packed, const Tensor& w) {
  check_unpacked(packed, w);
  if (packed.format == DType::kBf16) {
    const Tensor from = bf16_matrix(packed);
    convert(from, w.reshaped(from.shape()));
    return;
  }
  const PackedPanels from = panels_of(packed);
  const std::int64_t all_rows = packed.groups * from.panels * kRows;
  const dim3 grid = grid_of(all_rows * packed_parts(packed.columns, kUnit) * kPlaces);
  const auto kernel =
      packed.format == DType::kInt8 ? unpack_panels<DType::kInt8> : unpack_panels<DType::kInt4>;
  launch(stream(), kernel, grid, kThreads, 0, from, all_rows, device<float>(w));
}

}  // namespace moesaic::cuda
