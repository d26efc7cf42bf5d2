// Loss: a block a row. Each logit is read once and in the same place of a sum, whatever the batch.
#include <cmath>
#include <type_traits>

#include "backend/cuda/cuda_backend.h"
#include "backend/cuda/device/launch.cuh"
#include "backend/cuda/device/numbers.cuh"
#include "backend/cuda/device/vectors.cuh"
#include "backend/cuda/device/warp.cuh"
#include "backend/cuda/grid.h"

namespace moesaic::cuda {
namespace {

constexpr int kBlock = 512;

// Element u of a thread's eight in the part of a row that begins at `begin`: neighbours where whole
// vectors are read, else those of one element are neighbours of the threads beside.
template <bool kVectors>
__device__ __forceinline__ std::int64_t place_of(std::int64_t begin, int u) {
  return kVectors ? begin + static_cast<std::int64_t>(threadIdx.x) * kVector + u
                  : begin + u * kBlock + static_cast<std::int64_t>(threadIdx.x);
}

// The thread's eight of n numbers, `rest` past the end.
template <bool kVectors>
__device__ __forceinline__ void load_eight(const float* x, std::int64_t begin, std::int64_t n,
                                           float rest, float (&to)[kVector]) {
  const bool whole = kVectors && place_of<kVectors>(begin, 0) < n;
  if (whole) {
    load_vector(x + place_of<kVectors>(begin, 0), to);
  }
#pragma unroll
  for (int u = 0; u < kVector && !whole; ++u) {
    const std::int64_t i = place_of<kVectors>(begin, u);
    to[u] = !kVectors && i < n ? x[i] : rest;
  }
}

template <bool kVectors, class A>
__device__ __forceinline__ void store_eight(A* x, std::int64_t begin, std::int64_t n,
                                            const float (&from)[kVector]) {
  if constexpr (kVectors) {
    if (place_of<kVectors>(begin, 0) < n) {
      store_vector(x + place_of<kVectors>(begin, 0), from);
    }
  } else {
#pragma unroll
    for (int u = 0; u < kVector; ++u) {
      const std::int64_t i = place_of<kVectors>(begin, u);
      if (i < n) {
        store(x + i, from[u]);
      }
    }
  }
}

// The largest number, the sum of exp(x - largest), and the least place of the largest.
struct Online {
  float top, total;
  int best;
};

constexpr int kNowhere = 0x7fffffff;

// What is subtracted before exp: while every number is -inf or NaN, nothing is.
__device__ __forceinline__ float base_of(float top) { return top == -INFINITY ? 0.0F : top; }

struct JoinOnline {
  __device__ Online operator()(const Online& a, const Online& b) const {
    const float top = a.top < b.top ? b.top : a.top;
    const float base = base_of(top);
    const int of_a = a.top == top ? a.best : kNowhere;
    const int of_b = b.top == top ? b.best : kNowhere;
    return {top, a.total * expf(a.top - base) + b.total * expf(b.top - base),
            of_a < of_b ? of_a : of_b};
  }
};

struct OnlineShared {
  Online warp[kMostWarps];
};

// The sum over all threads, for thread 0.
__device__ __forceinline__ Online block_online(Online own, OnlineShared& s) {
#pragma unroll
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
    const Online other{__shfl_xor_sync(kAllLanes, own.top, distance),
                       __shfl_xor_sync(kAllLanes, own.total, distance),
                       __shfl_xor_sync(kAllLanes, own.best, distance)};
    own = JoinOnline()(own, other);
  }
  if (lane_index() == 0) {
    s.warp[warp_index()] = own;
  }
  __syncthreads();
  own = s.warp[0];
  for (int warp = 1; warp < kBlock / kWarp && threadIdx.x == 0; ++warp) {
    own = JoinOnline()(own, s.warp[warp]);
  }
  return own;
}

// Takes eight more numbers in (the online softmax of Milakov & Gimelshein 2018).
template <bool kVectors>
__device__ __forceinline__ void take_in(const float (&x)[kVector], std::int64_t begin,
                                        Online& own) {
  float top = -INFINITY;
#pragma unroll
  for (int u = 0; u < kVector; ++u) {
    top = fmaxf(top, x[u]);  // what is not a number is passed over, and reaches the sum
  }
  if (top > own.top) {
    own.total *= expf(own.top - top);
    own.top = top;
#pragma unroll
    for (int u = kVector - 1; u >= 0; --u) {
      own.best = x[u] == top ? static_cast<int>(place_of<kVectors>(begin, u)) : own.best;
    }
  }
  const float base = base_of(own.top);
#pragma unroll
  for (int u = 0; u < kVector; ++u) {
    own.total += expf(x[u] - base);
  }
}

template <bool kVectors>
__global__ void __launch_bounds__(kBlock)
    stats_of_rows(const float* logits, const std::int32_t* target, float* stats, std::int32_t* best,
                  std::int64_t vocab) {
  auto& s = shared<OnlineShared>();
  const std::int64_t r = blockIdx.x;
  const float* const row = logits + r * vocab;
  Online own{-INFINITY, 0.0F, kNowhere};
#pragma unroll 2
  for (std::int64_t begin = 0; begin < vocab; begin += kBlock * kVector) {
    float x[kVector];
    load_eight<kVectors>(row, begin, vocab, -INFINITY, x);
    take_in<kVectors>(x, begin, own);
  }
  own = block_online(own, s);
  if (threadIdx.x == 0) {
    const std::int32_t wanted = target[r];
    stats[3 * r] = own.top;
    stats[3 * r + 1] = own.total;
    stats[3 * r + 2] = wanted >= 0 && wanted < vocab ? row[wanted] : 0.0F;
    best[r] = own.best == kNowhere ? 0 : own.best;
  }
}

// exp(d) - 1 - d where |d| < 1/2, from its series: to 1e-7 of it.
__device__ __forceinline__ float second_order(float d) {
  float series = 1.0F / 40320;
  series = series * d + 1.0F / 5040;
  series = series * d + 1.0F / 720;
  series = series * d + 1.0F / 120;
  series = series * d + 1.0F / 24;
  series = series * d + 1.0F / 6;
  series = series * d + 1.0F / 2;
  return series * d * d;
}

// Where p and q are close their difference would be lost in the rounding of both.
__device__ __forceinline__ float divergence_term(float log_p, float log_q) {
  const float d = log_q - log_p;
  const float p = expf(log_p);
  return fabsf(d) < 0.5F ? p * second_order(d) : expf(log_q) - p - p * d;
}

struct SumShared {
  BlockScratch<float> scratch;
};

template <bool kVectors>
__global__ void __launch_bounds__(kBlock)
    divergence_of_rows(const float* reference, const float* logits, const float* log_sums,
                       float* divergence, std::int64_t vocab) {
  auto& s = shared<SumShared>();
  const std::int64_t r = blockIdx.x;
  const float of_reference = log_sums[2 * r];
  const float of_logits = log_sums[2 * r + 1];
  float total = 0.0F;
  for (std::int64_t begin = 0; begin < vocab; begin += kBlock * kVector) {
    float p[kVector];
    float q[kVector];
    load_eight<kVectors>(reference + r * vocab, begin, vocab, 0.0F, p);
    load_eight<kVectors>(logits + r * vocab, begin, vocab, 0.0F, q);
#pragma unroll
    for (int u = 0; u < kVector; ++u) {
      const float term = divergence_term(p[u] - of_reference, q[u] - of_logits);
      total += place_of<kVectors>(begin, u) < vocab ? term : 0.0F;
    }
  }
  total = block_sum(total, s.scratch);
  if (threadIdx.x == 0) {
    divergence[r] = total;
  }
}

// One row of the loss; the row's target is `vocab` or more where it lies in another share.
struct LossRow {
  float top, weight, total, factor;
  std::int64_t target;
};

// dlogits may be the same memory as logits: each thread writes what it has read.
template <bool kVectors, class A>
__device__ __forceinline__ float loss_backward(const LossRow& row, const float* logits, A* dlogits,
                                               std::int64_t vocab) {
  constexpr float kLeast = -200.0F;  // exp of it is 0 in fp32; a logit of -inf adds 0 to the spread
  float spread = 0.0F;
  for (std::int64_t begin = 0; begin < vocab; begin += kBlock * kVector) {
    float x[kVector];
    load_eight<kVectors>(logits, begin, vocab, -INFINITY, x);
#pragma unroll
    for (int u = 0; u < kVector; ++u) {
      const float below = x[u] - row.top;
      const float e = expf(below);
      spread += e * fmaxf(below, kLeast);
      const bool own = place_of<kVectors>(begin, u) == row.target;
      x[u] = own ? row.weight * (e / row.total - 1.0F) : e * row.factor;
    }
    store_eight<kVectors>(dlogits, begin, vocab, x);
  }
  return spread;
}

template <bool kVectors, class A>
__global__ void __launch_bounds__(kBlock)
    loss_backward_of_rows(const float* logits, const std::int32_t* target, const float* stats,
                          const float* weight, A* dlogits, float* spread, std::int64_t vocab) {
  auto& s = shared<SumShared>();
  const std::int64_t r = blockIdx.x;
  A* const to = dlogits + r * vocab;
  float sum = 0.0F;
  if (target[r] >= 0) {
    const float total = stats[3 * r + 1];
    const LossRow row{stats[3 * r], weight[r], total, weight[r] / total, target[r]};
    sum = loss_backward<kVectors>(row, logits + r * vocab, to, vocab);
  } else {
    const float none[kVector] = {};
    for (std::int64_t begin = 0; begin < vocab; begin += kBlock * kVector) {
      store_eight<kVectors>(to, begin, vocab, none);
    }
  }
  sum = block_sum(sum, s.scratch);
  if (threadIdx.x == 0) {
    spread[r] = sum;
  }
}

// f(std::true_type) where whole vectors can be read, else f(std::false_type).
template <class F>
void with_vectors(bool vectors, const F& f) {
  if (vectors) {
    f(std::true_type());
  } else {
    f(std::false_type());
  }
}

}  // namespace

void CudaBackend::softmax_stats(const Tensor& logits, const Tensor& target, const Tensor& stats,
                                const Tensor& best) {
  const std::int64_t vocab = logits.dim(1);
  require(vocab < kNowhere, "a vocabulary has 2^31 tokens at most");
  const float* const x = device<float>(logits);
  with_vectors(takes_vectors(vocab, x), [&](auto vectors) {
    launch(stream(), stats_of_rows<decltype(vectors)::value>, grid_of(logits.dim(0)), kBlock,
           sizeof(OnlineShared), x, device<std::int32_t>(target), device<float>(stats),
           device<std::int32_t>(best), vocab);
  });
}

void CudaBackend::divergence(const Tensor& reference, const Tensor& logits, const Tensor& log_sums,
                             const Tensor& divergence) {
  const std::int64_t vocab = logits.dim(1);
  const float* const p = device<float>(reference);
  const float* const q = device<float>(logits);
  with_vectors(takes_vectors(vocab, p, q), [&](auto vectors) {
    launch(stream(), divergence_of_rows<decltype(vectors)::value>, grid_of(logits.dim(0)), kBlock,
           sizeof(SumShared), p, q, device<float>(log_sums), device<float>(divergence), vocab);
  });
}

void CudaBackend::cross_entropy_backward(const Tensor& logits, const Tensor& target,
                                         const Tensor& stats, const Tensor& weight,
                                         const Tensor& dlogits, const Tensor& spread) {
  const std::int64_t vocab = logits.dim(1);
  const float* const x = device<float>(logits);
  const auto run = [&](auto* to) {
    with_vectors(takes_vectors(vocab, x, to), [&](auto vectors) {
      using A = std::remove_pointer_t<decltype(to)>;
      launch(stream(), loss_backward_of_rows<decltype(vectors)::value, A>, grid_of(logits.dim(0)),
             kBlock, sizeof(SumShared), x, device<std::int32_t>(target), device<float>(stats),
             device<float>(weight), to, device<float>(spread), vocab);
    });
  };
  if (dlogits.dtype() == DType::kBf16) {
    run(device<BFloat16>(dlogits));
  } else {
    run(device<float>(dlogits));
  }
}

}  // namespace moesaic::cuda
