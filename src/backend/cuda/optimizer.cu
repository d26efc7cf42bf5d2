// AdamW and sums of squares: one launch over a table of tensors, each of which is cut into chunks
// of its own, so that a tensor's numbers do not depend on its neighbours in the table.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <span>
#include <vector>

#include "backend/cuda/cuda_backend.h"
#include "backend/cuda/device/launch.cuh"
#include "backend/cuda/device/numbers.cuh"
#include "backend/cuda/device/vectors.cuh"
#include "backend/cuda/device/warp.cuh"
#include "backend/cuda/grid.h"

namespace moesaic::cuda {
namespace {

constexpr int kBlock = 256;
constexpr std::int64_t kChunk = 8192;

// The tensor of the table that the block's chunk belongs to: the last that begins there or before.
template <class Entry>
__device__ __forceinline__ const Entry& entry_of_block(const Entry* table, int entries) {
  int first = 0;
  int last = entries - 1;
  while (first < last) {
    const int middle = (first + last + 1) / 2;
    const bool before = table[middle].first_chunk <= static_cast<std::int64_t>(blockIdx.x);
    first = before ? middle : first;
    last = before ? last : middle - 1;
  }
  return table[first];
}

struct AdamWEntry {
  AdamW step;
  const float* grad;
  float* value;
  void* exp_avg;
  void* exp_avg_sq;
  void* copy;  // or null
  std::int64_t count, first_chunk;
  bool moments_in_bf16, copy_in_bf16, vectors;
};

struct Updated {
  float value, exp_avg, exp_avg_sq;
};

// m = b1 m + (1 - b1) g,  v = b2 v + (1 - b2) g^2,
// p = p (1 - lr wd) - lr (m / c1) / (sqrt(v / c2) + eps) (Loshchilov & Hutter 2019).
__device__ __forceinline__ Updated update(const AdamW& step, float grad, float value, float exp_avg,
                                          float exp_avg_sq) {
  const float g = grad * step.grad_scale;
  const float m = exp_avg * step.beta1 + g * (1.0F - step.beta1);
  const float v = exp_avg_sq * step.beta2 + g * g * (1.0F - step.beta2);
  const float change = (m / step.correction1) / (sqrtf(v / step.correction2) + step.eps);
  return {value * (1.0F - step.lr * step.weight_decay) - change * step.lr, m, v};
}

// Elements [i, i + 8) of a tensor whose moments are M.
template <class M, class C>
__device__ __forceinline__ void update_vector(const AdamWEntry& t, std::int64_t i) {
  float grad[kVector], value[kVector], exp_avg[kVector], exp_avg_sq[kVector];
  load_vector(t.grad + i, grad);
  load_vector(t.value + i, value);
  load_vector(static_cast<M*>(t.exp_avg) + i, exp_avg);
  load_vector(static_cast<M*>(t.exp_avg_sq) + i, exp_avg_sq);
#pragma unroll
  for (int u = 0; u < kVector; ++u) {
    const Updated to = update(t.step, grad[u], value[u], exp_avg[u], exp_avg_sq[u]);
    value[u] = to.value;
    exp_avg[u] = to.exp_avg;
    exp_avg_sq[u] = to.exp_avg_sq;
  }
  store_vector(t.value + i, value);
  store_vector(static_cast<M*>(t.exp_avg) + i, exp_avg);
  store_vector(static_cast<M*>(t.exp_avg_sq) + i, exp_avg_sq);
  if (t.copy != nullptr) {
    store_vector(static_cast<C*>(t.copy) + i, value);
  }
}

template <class M, class C>
__device__ __forceinline__ void update_one(const AdamWEntry& t, std::int64_t i) {
  M* const exp_avg = static_cast<M*>(t.exp_avg) + i;
  M* const exp_avg_sq = static_cast<M*>(t.exp_avg_sq) + i;
  const Updated to = update(t.step, t.grad[i], t.value[i], load(exp_avg), load(exp_avg_sq));
  t.value[i] = to.value;
  store(exp_avg, to.exp_avg);
  store(exp_avg_sq, to.exp_avg_sq);
  if (t.copy != nullptr) {
    store(static_cast<C*>(t.copy) + i, to.value);
  }
}

// A chunk begins at a multiple of whole vectors.
template <class M, class C>
__device__ __forceinline__ void update_chunk(const AdamWEntry& t) {
  const std::int64_t begin = (static_cast<std::int64_t>(blockIdx.x) - t.first_chunk) * kChunk;
  const std::int64_t end = begin + kChunk < t.count ? begin + kChunk : t.count;
  const std::int64_t whole = t.vectors ? end / kVector * kVector : begin;
  const auto thread = static_cast<std::int64_t>(threadIdx.x);
  for (std::int64_t i = begin + thread * kVector; i < whole; i += kBlock * kVector) {
    update_vector<M, C>(t, i);
  }
  for (std::int64_t i = whole + thread; i < end; i += kBlock) {
    update_one<M, C>(t, i);
  }
}

__global__ void __launch_bounds__(kBlock) update_tensors(const AdamWEntry* table, int entries) {
  const AdamWEntry t = entry_of_block(table, entries);
  if (t.moments_in_bf16 && t.copy_in_bf16) {
    update_chunk<BFloat16, BFloat16>(t);
  } else if (t.moments_in_bf16) {
    update_chunk<BFloat16, float>(t);
  } else if (t.copy_in_bf16) {
    update_chunk<float, BFloat16>(t);
  } else {
    update_chunk<float, float>(t);
  }
}

struct SquaresEntry {
  const float* x;
  std::int64_t count, first_chunk, chunks;
  bool vectors;
};

struct SumShared {
  BlockScratch<double> scratch;
};

__device__ __forceinline__ double square(float x) {
  return static_cast<double>(x) * static_cast<double>(x);
}

// parts: of each chunk. Which thread adds an element up depends on its place alone.
__global__ void __launch_bounds__(kBlock)
    squares_of_chunks(const SquaresEntry* table, int entries, double* parts) {
  auto& s = shared<SumShared>();
  const SquaresEntry t = entry_of_block(table, entries);
  const std::int64_t begin = (static_cast<std::int64_t>(blockIdx.x) - t.first_chunk) * kChunk;
  const std::int64_t end = begin + kChunk < t.count ? begin + kChunk : t.count;
  double sum = 0.0;
#pragma unroll 2
  for (std::int64_t i = begin + static_cast<std::int64_t>(threadIdx.x) * kVector; i < end;
       i += kBlock * kVector) {
    float x[kVector] = {};
    if (t.vectors && i + kVector <= end) {
      load_vector(t.x + i, x);
    } else {
#pragma unroll
      for (int u = 0; u < kVector; ++u) {
        x[u] = i + u < end ? t.x[i + u] : 0.0F;
      }
    }
#pragma unroll
    for (int u = 0; u < kVector; ++u) {
      sum += square(x[u]);
    }
  }
  sum = block_sum(sum, s.scratch);
  if (threadIdx.x == 0) {
    parts[blockIdx.x] = sum;
  }
}

// A block a tensor.
__global__ void __launch_bounds__(kBlock)
    sum_chunks(const SquaresEntry* table, const double* parts, double* sums) {
  auto& s = shared<SumShared>();
  const SquaresEntry t = table[blockIdx.x];
  double sum = 0.0;
  for (std::int64_t chunk = threadIdx.x; chunk < t.chunks; chunk += kBlock) {
    sum += parts[t.first_chunk + chunk];
  }
  sum = block_sum(sum, s.scratch);
  if (threadIdx.x == 0) {
    sums[blockIdx.x] = sum;
  }
}

template <class... T>
bool are_aligned(const T*... pointers) {
  return takes_vectors(0, pointers...);
}

AdamWEntry entry_of(const AdamWTensors& t, std::int64_t first_chunk) {
  const bool moments_in_bf16 = t.exp_avg.dtype() == DType::kBf16;
  const bool copy_in_bf16 = t.copy.defined() && t.copy.dtype() == DType::kBf16;
  const auto there = [](const Tensor& x, bool in_bf16) {
    return in_bf16 ? static_cast<void*>(device<BFloat16>(x)) : device<float>(x);
  };
  AdamWEntry entry{.step = t.step,
                   .grad = device<float>(t.grad),
                   .value = device<float>(t.value),
                   .exp_avg = there(t.exp_avg, moments_in_bf16),
                   .exp_avg_sq = there(t.exp_avg_sq, moments_in_bf16),
                   .copy = t.copy.defined() ? there(t.copy, copy_in_bf16) : nullptr,
                   .count = t.grad.numel(),
                   .first_chunk = first_chunk,
                   .moments_in_bf16 = moments_in_bf16,
                   .copy_in_bf16 = copy_in_bf16,
                   .vectors = false};
  entry.vectors = are_aligned(entry.grad, entry.value, static_cast<const std::byte*>(entry.exp_avg),
                              static_cast<const std::byte*>(entry.exp_avg_sq),
                              static_cast<const std::byte*>(entry.copy));
  return entry;
}

}  // namespace

void CudaBackend::adamw(std::span<const AdamWTensors> tensors) {
  std::vector<AdamWEntry> table;
  std::int64_t chunks = 0;
  for (const AdamWTensors& t : tensors) {
    if (t.grad.numel() > 0) {
      table.push_back(entry_of(t, chunks));
      chunks += ceil_div(table.back().count, kChunk);
    }
  }
  if (table.empty()) {
    return;
  }
  const Tensor there = upload_table(std::as_bytes(std::span(table)));
  launch(stream(), update_tensors, grid_of(chunks), kBlock, 0,
         reinterpret_cast<const AdamWEntry*>(there.data()), static_cast<int>(table.size()));
}

void CudaBackend::sums_of_squares(std::span<const Tensor> x, const Tensor& sums) {
  require(sums.numel() == std::ssize(x), "a sum of squares for each tensor");
  std::vector<SquaresEntry> table;
  std::int64_t chunks = 0;
  for (const Tensor& tensor : x) {
    const float* const from = device<float>(tensor);
    const std::int64_t own = ceil_div(tensor.numel(), kChunk);
    table.push_back({from, tensor.numel(), chunks, own, are_aligned(from)});
    chunks += own;
  }
  if (table.empty()) {
    return;
  }
  const Tensor there = upload_table(std::as_bytes(std::span(table)));
  const auto* const entries = reinterpret_cast<const SquaresEntry*>(there.data());
  const Tensor parts = empty(DType::kF64, {chunks});
  launch(stream(), squares_of_chunks, grid_of(chunks), kBlock, sizeof(SumShared), entries,
         static_cast<int>(table.size()), device<double>(parts));
  launch(stream(), sum_chunks, grid_of(std::ssize(table)), kBlock, sizeof(SumShared), entries,
         device<double>(parts), device<double>(sums));
}

}  // namespace moesaic::cuda
