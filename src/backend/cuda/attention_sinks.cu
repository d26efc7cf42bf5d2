#include "backend/cuda/attention_forms.h"
#include "backend/cuda/cuda_backend.h"
#include "backend/cuda/device/warp.cuh"

// Attention sink (Xiao et al. 2024, as gpt-oss has it): a key of logit z without a value joins the
// softmax:  lse' = log(exp(lse) + exp(z)),  out' = out exp(lse - lse');  with these, the backward
// pass of attention holds as it is, and dz -= sum over rows of exp(z - lse') dout . out'.
namespace moesaic::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int kMostSums = 256;  // of rows of a head, in the first of two stages

// A warp takes a row of (T, H).
template <class T>
__global__ void __launch_bounds__(kThreads)
    sink_rows(const float* sinks, T* out, float* lse, std::int64_t places, int heads, int width) {
  const std::int64_t place = static_cast<std::int64_t>(blockIdx.x) * kWarps + warp_index();
  if (place >= places) {
    return;
  }
  const float sink = sinks[place % heads];
  const float sum = lse[place];
  const float top = fmaxf(sum, sink);
  const float joined = top + logf(expf(sum - top) + expf(sink - top));
  const float factor = expf(sum - joined);
  __syncwarp();
  if (lane_index() == 0) {
    lse[place] = joined;
  }
  T* const row = out + place * width;
  for (int i = lane_index(); i < width; i += kWarp) {
    store(row + i, load(row + i) * factor);
  }
}

// What is summed over rows, which the warps of a head take in turn: sums (kWarps x blocks, H).
template <class T>
__global__ void __launch_bounds__(kThreads)
    sum_sinks(const T* dout, const T* out, const float* lse, const float* sinks, float* sums,
              std::int64_t rows, int heads, int width) {
  const int head = static_cast<int>(blockIdx.y);
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * kWarps + warp_index();
  float sum = 0.0F;
  for (std::int64_t row = first; row < rows; row += static_cast<std::int64_t>(gridDim.x) * kWarps) {
    const std::int64_t place = row * heads + head;
    float dot = 0.0F;
    for (int i = lane_index(); i < width; i += kWarp) {
      dot = fmaf(load(dout + place * width + i), load(out + place * width + i), dot);
    }
    sum = fmaf(expf(sinks[head] - lse[place]), warp_sum(dot), sum);
  }
  if (lane_index() == 0) {
    sums[first * heads + head] = sum;
  }
}

struct JoinShared {
  BlockScratch<float> scratch;
};

__global__ void __launch_bounds__(kThreads)
    subtract_sums(const float* sums, float* dsinks, int count, int heads) {
  const int head = static_cast<int>(blockIdx.x);
  float sum = 0.0F;
  for (int i = static_cast<int>(threadIdx.x); i < count; i += kThreads) {
    sum += sums[static_cast<std::int64_t>(i) * heads + head];
  }
  sum = block_sum(sum, shared<JoinShared>().scratch);
  if (threadIdx.x == 0) {
    dsinks[head] -= sum;
  }
}

}  // namespace

void CudaBackend::add_sinks(const Tensor& sinks, const Tensor& out, const Tensor& lse) {
  const std::int64_t places = lse.numel();
  with_type(out.dtype(), [&](auto type) {
    using T = decltype(type);
    launch(stream(), sink_rows<T>, dim3(static_cast<unsigned>(tiles_of(places, kWarps))),
           dim3(kThreads), 0, device<float>(sinks), device<T>(out), device<float>(lse), places,
           static_cast<int>(out.dim(1)), static_cast<int>(out.dim(2)));
  });
}

void CudaBackend::sinks_backward(const Tensor& dout, const Tensor& out, const Tensor& lse,
                                 const Tensor& sinks, const Tensor& dsinks) {
  const std::int64_t rows = out.dim(0);
  const std::int64_t heads = out.dim(1);
  const std::int64_t blocks = std::min<std::int64_t>(tiles_of(rows, kWarps), kMostSums / kWarps);
  if (blocks == 0) {
    return;
  }
  const Tensor sums = empty(DType::kF32, {blocks * kWarps, heads});
  with_type(out.dtype(), [&](auto type) {
    using T = decltype(type);
    launch(stream(), sum_sinks<T>,
           dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(heads)), dim3(kThreads), 0,
           device<T>(dout), device<T>(out), device<float>(lse), device<float>(sinks),
           device<float>(sums), rows, static_cast<int>(heads), static_cast<int>(out.dim(2)));
  });
  launch(stream(), subtract_sums, dim3(static_cast<unsigned>(heads)), dim3(kThreads),
         sizeof(JoinShared), device<float>(sums), device<float>(dsinks),
         static_cast<int>(blocks * kWarps), static_cast<int>(heads));
}

}  // namespace moesaic::cuda
