// Rotary embedding (Su et al. 2021): (a, b) -> m (a cos - b sin, b cos + a sin) for pairs that are
// half a width apart, or neighbours. Angles are large: sines and cosines are the accurate ones.
#include "backend/cuda/choices.h"
#include "backend/cuda/cuda_backend.h"
#include "backend/cuda/device/groups.cuh"
#include "backend/cuda/device/rows.cuh"

namespace moesaic::cuda {
namespace {

constexpr int kThreads = 128;

struct Rotation {
  const std::int32_t* position;
  const float* frequency;
  float magnitude, sign;
};

// Eight pairs of a group.
template <bool kVectors, bool kInterleave>
struct Pairs {
  float a[kVector], b[kVector];

  template <class A>
  __device__ __forceinline__ void load(const A* group, int i, int half) {
    const int n = half - i;
    if constexpr (kInterleave) {
      float low[kVector];
      float high[kVector];
      load_eight<kVectors>(group + 2 * i, 2 * n, low);
      load_eight<kVectors>(group + 2 * i + kVector, 2 * n - kVector, high);
#pragma unroll
      for (int j = 0; j < kVector / 2; ++j) {
        a[j] = low[2 * j], b[j] = low[2 * j + 1];
        a[j + kVector / 2] = high[2 * j], b[j + kVector / 2] = high[2 * j + 1];
      }
    } else {
      load_eight<kVectors>(group + i, n, a);
      load_eight<kVectors>(group + half + i, n, b);
    }
  }
  template <class A>
  __device__ __forceinline__ void store(A* group, int i, int half) const {
    const int n = half - i;
    if constexpr (kInterleave) {
      float low[kVector];
      float high[kVector];
#pragma unroll
      for (int j = 0; j < kVector / 2; ++j) {
        low[2 * j] = a[j], low[2 * j + 1] = b[j];
        high[2 * j] = a[j + kVector / 2], high[2 * j + 1] = b[j + kVector / 2];
      }
      store_eight<kVectors>(group + 2 * i, 2 * n, low);
      store_eight<kVectors>(group + 2 * i + kVector, 2 * n - kVector, high);
    } else {
      store_eight<kVectors>(group + i, n, a);
      store_eight<kVectors>(group + half + i, n, b);
    }
  }
};

// A block a row: its cosines and sines once, for all groups. Shared memory: a pair for each pair.
template <bool kVectors, bool kInterleave, class A>
__global__ void __launch_bounds__(kThreads)
    rotate_rows(A* x, ColumnGroups heads, Rotation rotation) {
  float2* const turns = &shared<float2>();  // cosine, sine
  const std::int64_t t = blockIdx.x;
  const int half = heads.width / 2;
  const auto position = static_cast<float>(rotation.position[t]);
  for (int i = static_cast<int>(threadIdx.x); i < half; i += kThreads) {
    float sine = 0.0F;
    float cosine = 0.0F;
    sincosf(rotation.frequency[i] * position, &sine, &cosine);
    turns[i] =
        make_float2(cosine * rotation.magnitude, sine * (rotation.magnitude * rotation.sign));
  }
  __syncthreads();
  const int of_head = (half + kVector - 1) / kVector;
  for (int item = static_cast<int>(threadIdx.x); item < heads.groups * of_head; item += kThreads) {
    A* const head = x + heads.at(t, item / of_head);
    const int i = item % of_head * kVector;
    Pairs<kVectors, kInterleave> pairs;
    pairs.load(head, i, half);
#pragma unroll
    for (int j = 0; j < kVector; ++j) {
      if (kVectors || i + j < half) {
        const float2 turn = turns[i + j];
        const float first = pairs.a[j];
        pairs.a[j] = first * turn.x - pairs.b[j] * turn.y;
        pairs.b[j] = pairs.b[j] * turn.x + first * turn.y;
      }
    }
    pairs.store(head, i, half);
  }
}

}  // namespace

void CudaBackend::rope(const Tensor& x, const RowGroups& heads, const Tensor& position,
                       const Tensor& frequency, const RopeOptions& options, Direction direction) {
  const ColumnGroups groups = groups_of(x, heads);
  const Rotation rotation{.position = device<std::int32_t>(position),
                          .frequency = device<float>(frequency),
                          .magnitude = options.magnitude,
                          .sign = direction == Direction::kForward ? 1.0F : -1.0F};
  const std::size_t turns = static_cast<std::size_t>(groups.width / 2) * sizeof(float2);
  with_type(x.dtype(), [&](auto type) {
    using A = decltype(type);
    A* const rows = device<A>(x);
    const bool halves = groups.width % (2 * kVector) == 0;
    with_flag(halves && groups_take_vectors(groups, rows), [&](auto vectors) {
      with_flag(options.interleave, [&](auto interleave) {
        launch(stream(), rotate_rows<vectors(), interleave(), A>,
               dim3(static_cast<unsigned>(x.dim(0))), kThreads, turns, rows, groups, rotation);
      });
    });
  });
}

}  // namespace moesaic::cuda
