#pragma once

#include <cuda_runtime.h>

#include <cmath>
#include <cstdint>
#include <type_traits>

#include "backend/cuda/cuda_backend.h"
#include "backend/cuda/device/warp.cuh"

// How a warp holds one number for each expert: lane l has those of experts l, l + 32, ...
namespace moesaic::cuda {

/// What an expert is, as ExpertState.
constexpr int kRegularExpert = 1;
constexpr int kSpareExpert = 2;

/// Up to 32 N experts, in registers.
template <int N>
struct ExpertLanes {
  template <class T>
  struct Row {
    T values[N];
    __device__ __forceinline__ T& operator[](int i) { return values[i]; }
    __device__ __forceinline__ const T& operator[](int i) const { return values[i]; }
  };

  /// What the experts are, a bit for each.
  struct Roles {
    unsigned regulars, spares;
    __device__ __forceinline__ bool regular(int i) const { return ((regulars >> i) & 1U) != 0; }
    __device__ __forceinline__ bool spare(int i) const { return ((spares >> i) & 1U) != 0; }
  };

  int experts;

  /// f(i, e) for every expert e of the lane, which is element i of its rows.
  template <class F>
  __device__ __forceinline__ void each(const F& f) const {
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const int e = lane_index() + i * kWarp;
      if (e < experts) {
        f(i, e);
      }
    }
  }
  /// A row from memory, or one that is yet to be written there.
  template <class T>
  __device__ __forceinline__ Row<T> read(T* from) const {
    Row<T> row{};
    each([&](int i, int e) { row[i] = from[e]; });
    return row;
  }
  __device__ __forceinline__ Roles roles(const std::int32_t* state) const {
    Roles roles{0, 0};
    each([&](int i, int e) {
      roles.regulars |= state[e] == kRegularExpert ? 1U << i : 0U;
      roles.spares |= state[e] == kSpareExpert ? 1U << i : 0U;
    });
    return roles;
  }
  template <class T>
  __device__ __forceinline__ Row<T> begin(T* /*to*/) const {
    return {};
  }
  template <class T>
  __device__ __forceinline__ void write(const Row<T>& row, T* to) const {
    each([&](int i, int e) { to[e] = row[i]; });
  }
};

/// Any number of experts, where they lie in memory.
template <>
struct ExpertLanes<0> {
  template <class T>
  struct Row {
    T* first;
    __device__ __forceinline__ T& operator[](int i) const {
      return first[static_cast<std::int64_t>(i) * kWarp];
    }
  };

  struct Roles {
    Row<const std::int32_t> state;
    __device__ __forceinline__ bool regular(int i) const { return state[i] == kRegularExpert; }
    __device__ __forceinline__ bool spare(int i) const { return state[i] == kSpareExpert; }
  };

  int experts;

  template <class F>
  __device__ __forceinline__ void each(const F& f) const {
    for (int i = 0, e = lane_index(); e < experts; ++i, e += kWarp) {
      f(i, e);
    }
  }
  template <class T>
  __device__ __forceinline__ Row<T> read(T* from) const {
    return {from + lane_index()};
  }
  __device__ __forceinline__ Roles roles(const std::int32_t* state) const { return {read(state)}; }
  template <class T>
  __device__ __forceinline__ Row<T> begin(T* to) const {
    return {to + lane_index()};
  }
  template <class T>
  __device__ __forceinline__ void write(const Row<T>& /*row*/, T* /*to*/) const {}
};

/// Blocks of 128 threads that a processor shall hold at least, so that it has the registers for N.
constexpr int blocks_with(int n) { return n > 8 ? 4 : (n > 4 ? 5 : 8); }

/// f(std::integral_constant<int, N>()) with the N that suits so many experts.
template <class F>
void with_lanes_of(std::int64_t experts, const F& f) {
  if (experts <= 1 * kWarp) {
    f(std::integral_constant<int, 1>());
  } else if (experts <= 2 * kWarp) {
    f(std::integral_constant<int, 2>());
  } else if (experts <= 4 * kWarp) {
    f(std::integral_constant<int, 4>());
  } else if (experts <= 8 * kWarp) {
    f(std::integral_constant<int, 8>());
  } else if (experts <= 16 * kWarp) {
    f(std::integral_constant<int, 16>());
  } else {
    f(std::integral_constant<int, 0>());
  }
}

constexpr float kTinyScore = 1e-20F;  // keeps a sum of scores that all underflow from dividing by 0

/// What a token's kernel needs of RouteOptions.
struct RouteRow {
  int experts, top_k, candidates, groups, top_groups, group_best;
  float threshold, inverse_temperature;
  bool sigmoid, normalize;
  float scale;
};

/// Where the rows of tokens lie.
struct RouteRows {
  const std::int32_t* state;
  const float* bias;
  const float* added;           // or null
  const std::int32_t* segment;  // or null
  float* logits;
  float* scores;
  float* selection;
  std::int32_t* choice;
  float* weight;
};

inline RouteRow row_of(const RouteOptions& o, std::int64_t experts) {
  return {.experts = static_cast<int>(experts),
          .top_k = static_cast<int>(o.top_k),
          .candidates = static_cast<int>(o.candidates),
          .groups = static_cast<int>(o.groups),
          .top_groups = static_cast<int>(o.top_groups),
          .group_best = static_cast<int>(o.group_best),
          .threshold = o.threshold,
          .inverse_temperature = 1.0F / o.temperature,
          .sigmoid = o.score == RouterScore::kSigmoid,
          .normalize = o.normalize,
          .scale = o.scale};
}

inline RouteRows rows_of(const RouteTensors& t) {
  return {.state = device<std::int32_t>(t.state),
          .bias = device<float>(t.bias),
          .added = device<float>(t.added),
          .segment = device<std::int32_t>(t.segment),
          .logits = device<float>(t.logits),
          .scores = device<float>(t.scores),
          .selection = device<float>(t.selection),
          .choice = device<std::int32_t>(t.choice),
          .weight = device<float>(t.weight)};
}

__device__ __forceinline__ float sigmoid(float x) { return 1.0F / (1.0F + expf(-x)); }

/// Over the regular experts; numbers that are no numbers reach the sum.
template <class Lanes, class Floats>
__device__ float log_sum_exp(const Lanes& lanes, const typename Lanes::Roles& roles,
                             const Floats& logits) {
  float top = -INFINITY;
  lanes.each(
      [&](int i, int /*e*/) { top = roles.regular(i) && logits[i] > top ? logits[i] : top; });
  top = warp_max(top);
  float total = 0.0F;
  lanes.each([&](int i, int /*e*/) { total += roles.regular(i) ? expf(logits[i] - top) : 0.0F; });
  return top + logf(warp_sum(total));
}

template <class Lanes, class Floats>
__device__ float regular_sum(const Lanes& lanes, const typename Lanes::Roles& roles,
                             const Floats& x) {
  float total = 0.0F;
  lanes.each([&](int i, int /*e*/) { total += roles.regular(i) ? x[i] : 0.0F; });
  return warp_sum(total);
}

/// The scores of the chosen in the order of choice, which is that of route().
__device__ inline float chosen_sum(const RouteRow& row, const float* scores,
                                   const std::int32_t* choice) {
  float chosen = 0.0F;
  for (int c = 0; c < row.top_k; ++c) {
    chosen += choice[c] >= 0 ? scores[choice[c]] : 0.0F;
  }
  return chosen;
}

/// What weights are made of scores with, whose sum over the chosen is given.
__device__ __forceinline__ float weight_factor(const RouteRow& row, float chosen) {
  return row.normalize ? row.scale / (chosen + kTinyScore) : row.scale;
}

}  // namespace moesaic::cuda
