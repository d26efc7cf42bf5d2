// Every element alone.
#include "backend/cuda/choices.h"
#include "backend/cuda/cuda_backend.h"
#include "backend/cuda/device/rows.cuh"

namespace moesaic::cuda {
namespace {

// work.run<vectors>(i, n): the n <= 8 elements from i on.
template <bool kVectors, class Work>
__global__ void __launch_bounds__(kRowThreads) each_eight(std::int64_t count, Work work) {
  const std::int64_t thread = static_cast<std::int64_t>(blockIdx.x) * kRowThreads + threadIdx.x;
  const std::int64_t i = thread * kVector;
  if (kVectors && i + kVector <= count) {
    work.template run<true>(i, kVector);
  } else if (i < count) {
    work.template run<false>(i, static_cast<int>(count - i < kVector ? count - i : kVector));
  }
}

template <class From, class To>
struct Convert {
  const From* from;
  To* to;

  template <bool kVectors>
  __device__ void run(std::int64_t i, int n) const {
    float v[kVector];
    load_eight<kVectors>(from + i, n, v);
    store_eight<kVectors>(to + i, n, v);
  }
  bool aligned() const { return takes_vectors(0, from, to); }
};

struct Add {
  const float* x;
  float* inout;

  template <bool kVectors>
  __device__ void run(std::int64_t i, int n) const {
    float v[kVector];
    float sum[kVector];
    load_eight<kVectors>(x + i, n, v);
    load_eight<kVectors>(inout + i, n, sum);
#pragma unroll
    for (int j = 0; j < kVector; ++j) {
      sum[j] += v[j];
    }
    store_eight<kVectors>(inout + i, n, sum);
  }
  bool aligned() const { return takes_vectors(0, x, inout); }
};

struct Scale {
  float* inout;
  float factor;

  template <bool kVectors>
  __device__ void run(std::int64_t i, int n) const {
    float v[kVector];
    load_eight<kVectors>(inout + i, n, v);
#pragma unroll
    for (int j = 0; j < kVector; ++j) {
      v[j] *= factor;
    }
    store_eight<kVectors>(inout + i, n, v);
  }
  bool aligned() const { return takes_vectors(0, inout); }
};

// NaN stays NaN.
template <class A>
struct Clamp {
  A* inout;
  float limit;

  template <bool kVectors>
  __device__ void run(std::int64_t i, int n) const {
    float v[kVector];
    load_eight<kVectors>(inout + i, n, v);
#pragma unroll
    for (int j = 0; j < kVector; ++j) {
      const float low = v[j] < -limit ? -limit : v[j];
      v[j] = low > limit ? limit : low;
    }
    store_eight<kVectors>(inout + i, n, v);
  }
  bool aligned() const { return takes_vectors(0, inout); }
};

template <class A>
struct ClampBackward {
  A* dy;
  const A* x;
  float limit;

  template <bool kVectors>
  __device__ void run(std::int64_t i, int n) const {
    float v[kVector];
    float d[kVector];
    load_eight<kVectors>(x + i, n, v);
    load_eight<kVectors>(dy + i, n, d);
#pragma unroll
    for (int j = 0; j < kVector; ++j) {
      d[j] = v[j] <= limit && v[j] >= -limit ? d[j] : 0.0F;
    }
    store_eight<kVectors>(dy + i, n, d);
  }
  bool aligned() const { return takes_vectors(0, dy, x); }
};

template <class Work>
void launch_each(cudaStream_t stream, std::int64_t count, const Work& work) {
  constexpr std::int64_t kOfBlock = std::int64_t{kRowThreads} * kVector;
  const dim3 grid(static_cast<unsigned>((count + kOfBlock - 1) / kOfBlock));
  with_flag(work.aligned(), [&](auto vectors) {
    launch(stream, each_eight<vectors(), Work>, grid, kRowThreads, 0, count, work);
  });
}

}  // namespace

void CudaBackend::convert(const Tensor& from, const Tensor& to) {
  require(from.numel() == to.numel(), "conversion of another size");
  if (from.dtype() == to.dtype()) {
    check(cudaMemcpyAsync(to.data(), from.data(), from.bytes(), cudaMemcpyDeviceToDevice, stream()),
          "copy of a tensor");
    return;
  }
  if (from.dtype() == DType::kF32) {
    launch_each(stream(), from.numel(),
                Convert<float, BFloat16>{device<float>(from), device<BFloat16>(to)});
  } else {
    launch_each(stream(), from.numel(),
                Convert<BFloat16, float>{device<BFloat16>(from), device<float>(to)});
  }
}

void CudaBackend::add(const Tensor& x, const Tensor& inout) {
  require(x.numel() == inout.numel(), "sum of another size");
  launch_each(stream(), x.numel(), Add{device<float>(x), device<float>(inout)});
}

void CudaBackend::scale(const Tensor& inout, float factor) {
  launch_each(stream(), inout.numel(), Scale{device<float>(inout), factor});
}

void CudaBackend::clamp(const Tensor& inout, float limit) {
  with_type(inout.dtype(), [&](auto type) {
    using A = decltype(type);
    launch_each(stream(), inout.numel(), Clamp<A>{device<A>(inout), limit});
  });
}

void CudaBackend::clamp_backward(const Tensor& dy, const Tensor& x, float limit) {
  with_type(dy.dtype(), [&](auto type) {
    using A = decltype(type);
    launch_each(stream(), dy.numel(), ClampBackward<A>{device<A>(dy), device<A>(x), limit});
  });
}

}  // namespace moesaic::cuda
