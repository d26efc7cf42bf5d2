// The dispatch plan: a stable counting sort of the choices by expert, in three kernels. A warp
// counts a chunk of places; then each expert's counts are summed over the chunks, and the experts'
// over their order; then the warps give each place its row. Places keep their order, so the plan
// is that of routing/dispatch_plan.cpp. Counts are integers: their order does not matter.
#include <algorithm>
#include <bit>

#include "backend/cuda/cuda_backend.h"
#include "backend/cuda/device/launch.cuh"
#include "backend/cuda/device/warp.cuh"
#include "backend/cuda/dispatch_sort.cuh"
#include "backend/cuda/grid.h"

namespace moesaic::cuda {
namespace {

// Where rows go: those of lay_rows().
struct PutRows {
  std::int32_t* position;
  std::int32_t* source;
  int top_k, room;

  __device__ void operator()(int place, int row) const {
    position[place] = row;
    if (row >= 0 && row < room) {
      source[row] = place / top_k;
    }
  }
};

// The places of each expert, one expert behind the other.
struct PutPlaces {
  std::int32_t* places;

  __device__ void operator()(int place, int row) const {
    if (row >= 0) {
      places[row] = place;
    }
  }
};

__global__ void __launch_bounds__(kSortBlock)
    number_experts(const std::int32_t* order, int experts, std::int32_t* column) {
  const int i = static_cast<int>(blockIdx.x * kSortBlock + threadIdx.x);
  if (i < experts && order[i] >= 0 && order[i] < kMostNumbers) {
    column[order[i]] = i;
  }
}

// Behind the last row there is no token.
__global__ void __launch_bounds__(kSortBlock)
    end_sources(const std::int32_t* rows, std::int32_t* source, int room) {
  const int i = static_cast<int>(blockIdx.x * kSortBlock + threadIdx.x);
  if (i < room && i >= *rows) {
    source[i] = -1;
  }
}

// counts (3, E): choices, of these dropped, and rows.
__global__ void __launch_bounds__(kSortBlock)
    count_dropped(std::int32_t* counts, int experts, std::int64_t slots) {
  const int e = static_cast<int>(blockIdx.x * kSortBlock + threadIdx.x);
  if (e < experts) {
    const int chosen = counts[e];
    const int kept = slots > 0 && slots < chosen ? static_cast<int>(slots) : chosen;
    counts[experts + e] = chosen - kept;
    counts[2 * experts + e] = kept;
  }
}

constexpr int kDigitBits = 8;
constexpr int kDigits = 1 << kDigitBits;

struct SelectShared {
  ScanScratch scan;
  int bins[kDigits];
  int digit, before;  // that of the last one kept, and how many have a larger one
};

// Unsigned numbers in the order of the weights; 0 and -0 are one.
__device__ __forceinline__ unsigned sortable(float weight) {
  const unsigned bits = __float_as_uint(weight + 0.0F);
  return (bits & 0x80000000U) != 0 ? ~bits : bits | 0x80000000U;
}

// The choices of one expert.
struct Choices {
  const std::int32_t* places;
  const float* weight;
  int count;

  __device__ __forceinline__ unsigned key(int i) const { return sortable(weight[places[i]]); }
};

// How many of the keys that begin like `prefix` (in the bits of `mask`) have each next digit.
__device__ __forceinline__ void count_digits(const Choices& own, unsigned prefix, unsigned mask,
                                             int shift, SelectShared& s) {
  for (int digit = static_cast<int>(threadIdx.x); digit < kDigits; digit += kSelectBlock) {
    s.bins[digit] = 0;
  }
  __syncthreads();
  for (int begin = 0; begin < own.count; begin += kSelectBlock) {
    const int i = begin + static_cast<int>(threadIdx.x);
    const unsigned key = i < own.count ? own.key(i) : 0;
    const bool counts = i < own.count && (key & mask) == prefix;
    const int digit = counts ? static_cast<int>((key >> shift) & (kDigits - 1U)) : kDigits;
    const unsigned same = equal_lanes(digit, kDigitBits + 1);
    if (counts && lane_index() == __ffs(static_cast<int>(same)) - 1) {
      atomicAdd(&s.bins[digit], __popc(same));
    }
  }
  __syncthreads();
}

// The digit of the one that `keep` reaches, counted from the largest digit on.
__device__ __forceinline__ void find_digit(int keep, SelectShared& s) {
  const int digit = kDigits - 1 - static_cast<int>(threadIdx.x);
  const int own = digit >= 0 ? s.bins[digit] : 0;
  const int before = sum_before(own, s.scan).before;
  if (before < keep && keep <= before + own) {
    s.digit = digit;
    s.before = before;
  }
  __syncthreads();
}

// Where an expert has more choices than slots, those of the largest weights stay, the lower place
// winning ties: the key of the last of them digit by digit, then the places in order.
__global__ void __launch_bounds__(kSelectBlock)
    drop_smallest(const std::int32_t* counts, const std::int32_t* first, const std::int32_t* places,
                  const float* weight, std::int64_t slots, std::int32_t* target) {
  auto& s = shared<SelectShared>();
  const Choices own{places + first[blockIdx.x], weight, counts[blockIdx.x]};
  if (own.count <= slots) {
    return;
  }
  int keep = static_cast<int>(slots);
  unsigned last = 0;
  unsigned mask = 0;
  for (int shift = 24; shift >= 0; shift -= 8) {
    count_digits(own, last, mask, shift, s);
    find_digit(keep, s);
    keep -= s.before;
    last |= static_cast<unsigned>(s.digit) << shift;
    mask |= (kDigits - 1U) << shift;
  }
  int equals = 0;  // so far; the first `keep` of them stay
  for (int begin = 0; begin < own.count; begin += kSelectBlock) {
    const int i = begin + static_cast<int>(threadIdx.x);
    const unsigned key = i < own.count ? own.key(i) : 0;
    const bool equal = i < own.count && key == last;
    const SumBefore rank = sum_before(equal ? 1 : 0, s.scan);
    const bool stays = key > last || (equal && equals + rank.before < keep);
    if (i < own.count && !stays) {
      target[own.places[i]] = -1;
    }
    equals += rank.total;
  }
}

// counts (S, E) += the choices of each expert by the tokens of each segment.
__global__ void __launch_bounds__(kSortBlock)
    count_choices(const std::int32_t* choice, const std::int32_t* segment, std::int64_t places,
                  int top_k, int experts, int bits, std::int32_t* counts) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kSortBlock + threadIdx.x;
  const int expert = i < places ? choice[i] : -1;
  const int own_segment = segment != nullptr && i < places ? segment[i / top_k] : 0;
  const int key = expert >= 0 ? own_segment * experts + expert : (1 << bits) - 1;
  const unsigned same = equal_lanes(key, bits);
  if (expert >= 0 && lane_index() == __ffs(static_cast<int>(same)) - 1) {
    atomicAdd(&counts[key], __popc(same));
  }
}

// In double, and in the order of backend/cpu/dispatch.cpp.
__device__ __forceinline__ float scaled(const AuxScale& scale, double wanted) {
  return static_cast<float>(scale.aux * wanted / scale.tokens);
}

struct CountShared {
  BlockScratch<int> scratch;
};

// A block a segment.
__global__ void __launch_bounds__(kSortBlock)
    aux_of_counts(const std::int32_t* counts, int experts, AuxScale scale, float* daux) {
  auto& s = shared<CountShared>();
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * experts;
  int own = 0;
  for (int e = static_cast<int>(threadIdx.x); e < experts; e += kSortBlock) {
    own += counts[first + e];
  }
  const int all = block_sum(own, s.scratch);
  const double each = static_cast<double>(scale.regular) / static_cast<double>(all);
  for (int e = static_cast<int>(threadIdx.x); e < experts; e += kSortBlock) {
    const int n = counts[first + e];
    daux[first + e] = scaled(scale, n > 0 ? static_cast<double>(n) * each : 0.0);
  }
}

__global__ void __launch_bounds__(kSortBlock)
    aux_of_load(const float* load, std::int64_t experts, std::int64_t count, AuxScale scale,
                float* daux) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kSortBlock + threadIdx.x;
  if (i < count) {
    daux[i] =
        scaled(scale, static_cast<double>(scale.regular) * static_cast<double>(load[i % experts]));
  }
}

}  // namespace

void CudaBackend::aux_gradient(const Tensor& choice, const Tensor& segment, const Tensor& load,
                               const AuxScale& scale, const Tensor& daux) {
  const std::int64_t segments = daux.dim(0);
  const std::int64_t experts = daux.dim(1);
  float* const to = device<float>(daux);
  if (load.defined()) {
    launch(stream(), aux_of_load, grid_of(ceil_div(daux.numel(), kSortBlock)), kSortBlock, 0,
           device<float>(load), experts, daux.numel(), scale, to);
    return;
  }
  require(daux.numel() < std::int64_t{1} << 30, "too many segments and experts");
  const Tensor counts = empty(DType::kI32, {segments, experts});
  zero(counts);
  const std::int64_t places = choice.numel();
  const int bits = std::bit_width(static_cast<unsigned>(daux.numel()));  // one key more: of none
  launch(stream(), count_choices, grid_of(ceil_div(places, kSortBlock)), kSortBlock, 0,
         device<std::int32_t>(choice), device<std::int32_t>(segment), places,
         static_cast<int>(choice.dim(1)), static_cast<int>(experts), bits,
         device<std::int32_t>(counts));
  launch(stream(), aux_of_counts, grid_of(segments), kSortBlock, sizeof(CountShared),
         device<std::int32_t>(counts), static_cast<int>(experts), scale, to);
}

void CudaBackend::drop_overflow(const Tensor& choice, const Tensor& weight, std::int64_t slots,
                                const Tensor& target, const Tensor& counts) {
  const auto experts = static_cast<int>(counts.dim(1));
  const CountingSort sort(*this, choice.numel(), experts);
  auto* const count = device<std::int32_t>(counts);
  sort.count({device<std::int32_t>(choice), nullptr}, device<std::int32_t>(target), count);
  launch(stream(), count_dropped, grid_of(ceil_div(experts, kSortBlock)), kSortBlock, 0, count,
         experts, slots);
  const float* const weights = device<float>(weight);
  if (slots == 0 || choice.numel() <= slots) {
    return;
  }
  const Tensor first = empty(DType::kI32, {experts + 1});
  const Tensor places = empty(DType::kI32, {choice.numel()});
  sort.put({device<std::int32_t>(choice), nullptr}, count, device<std::int32_t>(first),
           PutPlaces{device<std::int32_t>(places)});
  launch(stream(), drop_smallest, grid_of(experts), kSelectBlock, sizeof(SelectShared), count,
         device<std::int32_t>(first), device<std::int32_t>(places), weights, slots,
         device<std::int32_t>(target));
}

void CudaBackend::lay_rows(const Tensor& target, const Tensor& order, const Tensor& position,
                           const Tensor& source, const Tensor& offsets) {
  const auto experts = static_cast<int>(order.numel());
  const auto room = static_cast<int>(source.numel());
  const Tensor column = empty(DType::kI32, {kMostNumbers});
  const Tensor totals = empty(DType::kI32, {experts});
  launch(stream(), number_experts, grid_of(ceil_div(experts, kSortBlock)), kSortBlock, 0,
         device<std::int32_t>(order), experts, device<std::int32_t>(column));
  const SortKeys keys{device<std::int32_t>(target), device<std::int32_t>(column)};
  const CountingSort sort(*this, target.numel(), experts);
  sort.count(keys, nullptr, device<std::int32_t>(totals));
  sort.put(keys, device<std::int32_t>(totals), device<std::int32_t>(offsets),
           PutRows{device<std::int32_t>(position), device<std::int32_t>(source),
                   static_cast<int>(target.dim(1)), room});
  launch(stream(), end_sources, grid_of(ceil_div(room, kSortBlock)), kSortBlock, 0,
         device<std::int32_t>(offsets) + experts, device<std::int32_t>(source), room);
}

}  // namespace moesaic::cuda
