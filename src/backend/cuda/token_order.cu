// A stable radix sort: for each digit, parts of the tokens are counted, the counts become places,
// and each part is laid down by one warp in order.
#include <algorithm>
#include <bit>

#include "backend/cuda/device/launch.cuh"
#include "backend/cuda/device/warp.cuh"
#include "backend/cuda/token_order.h"

namespace moesaic::cuda {
namespace {

constexpr int kDigitBits = 10;
constexpr int kDigits = 1 << kDigitBits;
constexpr int kCountThreads = 256;
constexpr std::int64_t kLeastPart = 512;  // tokens of a warp
constexpr std::int64_t kMostParts = 256;

// Tokens of one pass; from is null in the first one: kinds are as they came, in order.
struct Pass {
  const std::int32_t* kind;
  const std::int32_t* from;
  std::int64_t count, of_part;
  int kinds, shift;

  __device__ __forceinline__ std::int64_t begin() const {
    return static_cast<std::int64_t>(blockIdx.x) * of_part;
  }
  __device__ __forceinline__ std::int64_t end() const {
    return begin() + of_part < count ? begin() + of_part : count;
  }
  __device__ __forceinline__ int kind_of(std::int64_t i) const {
    return kind[i] >= 0 && kind[i] < kinds ? kind[i] : kinds;
  }
  __device__ __forceinline__ int digit_of(int of_kind) const {
    return (of_kind >> shift) & (kDigits - 1);
  }
};

struct DigitShared {
  int digits[kDigits];
};

// counts (parts, digits)
__global__ void __launch_bounds__(kCountThreads) count_digits(Pass pass, std::int32_t* counts) {
  auto& s = shared<DigitShared>();
  for (int d = static_cast<int>(threadIdx.x); d < kDigits; d += kCountThreads) {
    s.digits[d] = 0;
  }
  __syncthreads();
  for (std::int64_t i = pass.begin() + threadIdx.x; i < pass.end(); i += kCountThreads) {
    atomicAdd(&s.digits[pass.digit_of(pass.kind_of(i))], 1);
  }
  __syncthreads();
  std::int32_t* const mine = counts + static_cast<std::int64_t>(blockIdx.x) * kDigits;
  for (int d = static_cast<int>(threadIdx.x); d < kDigits; d += kCountThreads) {
    mine[d] = s.digits[d];
  }
}

struct PlaceShared {
  int warps[kDigits / kWarp];
};

__device__ __forceinline__ int sum_up_to_lane(int value) {
#pragma unroll
  for (int distance = 1; distance < kWarp; distance *= 2) {
    const int before = __shfl_up_sync(kAllLanes, value, static_cast<unsigned>(distance));
    value += lane_index() >= distance ? before : 0;
  }
  return value;
}

// Counts become the places where each part's tokens of a digit begin. One block, a thread a digit.
__global__ void __launch_bounds__(kDigits) place_digits(std::int32_t* counts, int parts) {
  auto& s = shared<PlaceShared>();
  std::int32_t* const mine = counts + threadIdx.x;
  int total = 0;
#pragma unroll 8
  for (int part = 0; part < parts; ++part) {
    total += mine[part * kDigits];
  }
  const int up_to = sum_up_to_lane(total);
  if (lane_index() == kWarp - 1) {
    s.warps[warp_index()] = up_to;
  }
  __syncthreads();
  int place = up_to - total;
  for (int warp = 0; warp < warp_index(); ++warp) {
    place += s.warps[warp];
  }
  for (int part = 0; part < parts; ++part) {
    const int count = mine[part * kDigits];
    mine[part * kDigits] = place;
    place += count;
  }
}

// One warp a part.
__global__ void __launch_bounds__(kWarp)
    lay_tokens(Pass pass, const std::int32_t* places, std::int32_t* kind, std::int32_t* from) {
  auto& s = shared<DigitShared>();
  const std::int32_t* const begins = places + static_cast<std::int64_t>(blockIdx.x) * kDigits;
  for (int d = lane_index(); d < kDigits; d += kWarp) {
    s.digits[d] = begins[d];
  }
  __syncwarp();
  for (std::int64_t first = pass.begin(); first < pass.end(); first += kWarp) {
    const std::int64_t i = first + lane_index();
    const bool exists = i < pass.end();
    const int of_kind = exists ? pass.kind_of(i) : 0;
    const int digit = exists ? pass.digit_of(of_kind) : kDigits;  // beyond all
    const unsigned alike = __match_any_sync(kAllLanes, digit);
    const int rank = __popc(alike & ((1U << lane_index()) - 1U));
    const int place = exists ? s.digits[digit] + rank : 0;
    __syncwarp();
    if (exists) {
      kind[place] = of_kind;
      from[place] = pass.from == nullptr ? static_cast<std::int32_t>(i) : pass.from[i];
      if (rank == 0) {
        s.digits[digit] += __popc(alike);
      }
    }
    __syncwarp();
  }
}

}  // namespace

TokenOrder sort_tokens(CudaBackend& backend, const Tensor& tokens, std::int64_t kinds) {
  const std::int64_t count = tokens.numel();
  const std::int64_t of_part = std::max(kLeastPart, (count + kMostParts - 1) / kMostParts);
  const auto parts = static_cast<int>((count + of_part - 1) / of_part);
  const Tensor counts = backend.empty(DType::kI32, {parts, kDigits});
  Pass pass{.kind = device<std::int32_t>(tokens),
            .from = nullptr,
            .count = count,
            .of_part = of_part,
            .kinds = static_cast<int>(kinds),
            .shift = 0};
  TokenOrder order;
  const auto bits = static_cast<int>(std::bit_width(static_cast<std::uint64_t>(kinds)));
  for (; pass.shift < bits && parts > 0; pass.shift += kDigitBits) {
    // What the pass before wrote stays until this one has read it: one stream.
    const TokenOrder next{backend.empty(DType::kI32, {count}), backend.empty(DType::kI32, {count})};
    launch(backend.stream(), count_digits, parts, kCountThreads, sizeof(DigitShared), pass,
           device<std::int32_t>(counts));
    launch(backend.stream(), place_digits, 1, kDigits, sizeof(PlaceShared),
           device<std::int32_t>(counts), parts);
    launch(backend.stream(), lay_tokens, parts, kWarp, sizeof(DigitShared), pass,
           device<std::int32_t>(counts), device<std::int32_t>(next.kind),
           device<std::int32_t>(next.from));
    order = next;
    pass.kind = device<std::int32_t>(order.kind);
    pass.from = device<std::int32_t>(order.from);
  }
  return order;
}

}  // namespace moesaic::cuda
