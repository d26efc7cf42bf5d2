#pragma once

#include <cuda_runtime.h>

// The search for s and m of a group of 32 numbers of int4, as cpu/kernels/quantized.cpp has it, to
// the last bit: no multiplication and addition become one, and every sum has its order.
namespace moesaic::cuda::packed {

constexpr int kGroup = 32;
constexpr float kMostCode = 15.0F;    // q
constexpr float kMostLevel = 255.0F;  // q s + m

__device__ __forceinline__ float within(float x, float least, float most) {
  return x < least ? least : x > most ? most : x;
}
/// To an integer; even ones where two are as near.
__device__ __forceinline__ float nearest(float x) {
  constexpr float kMagic = 12582912.0F;  // 1.5 * 2^23
  return __fsub_rn(__fadd_rn(x, kMagic), kMagic);
}

/// Levels q s + m of a group, 0 <= q <= 15.
struct Levels {
  float s = 1.0F, m = 128.0F;
  float error = INFINITY;

  __device__ float code(float x, float inverse) const {
    const float q = nearest(__fmul_rn(__fsub_rn(x, m), inverse));
    const float positive = q > 0.0F ? q : 0.0F;
    return positive < kMostCode ? positive : kMostCode;
  }
  __device__ float code(float x) const { return code(x, __fdiv_rn(1.0F, s)); }
};

/// In units of d, from 128 on.
__device__ __forceinline__ float in_units(float w, float d) {
  return __fadd_rn(__fdiv_rn(w, d), 128.0F);
}

/// How much the errors of a group's numbers weigh; the most weighs 1.
struct ErrorWeights {
  float of[kGroup];
  float unit, sum;

  __device__ explicit ErrorWeights(const float (&weights)[kGroup]) {
    float most = 0.0F;
#pragma unroll
    for (const float weight : weights) {
      most = most < weight ? weight : most;
    }
    unit = most > 0.0F ? most : 1.0F;
    sum = 0.0F;
#pragma unroll
    for (int i = 0; i < kGroup; ++i) {
      of[i] = most > 0.0F ? __fdiv_rn(weights[i], most) : 1.0F;
      sum = __fadd_rn(sum, of[i]);
    }
  }
};

/// As eight lanes of a vector are added.
__device__ __forceinline__ float sum_of_eight(const float (&v)[8]) {
  return __fadd_rn(__fadd_rn(__fadd_rn(v[0], v[4]), __fadd_rn(v[1], v[5])),
                   __fadd_rn(__fadd_rn(v[2], v[6]), __fadd_rn(v[3], v[7])));
}

/// Sets the error of the levels; returns the m that would be best for the same q.
__device__ __forceinline__ float judge(const float (&x)[kGroup], const ErrorWeights& weights,
                                       Levels& levels) {
  float errors[8] = {};
  float rests[8] = {};
  const float inverse = __fdiv_rn(1.0F, levels.s);
#pragma unroll
  for (int i = 0; i < kGroup; ++i) {
    const float rest = __fsub_rn(x[i], __fmul_rn(levels.code(x[i], inverse), levels.s));
    const float off = __fsub_rn(rest, levels.m);
    errors[i % 8] = __fadd_rn(errors[i % 8], __fmul_rn(__fmul_rn(weights.of[i], off), off));
    rests[i % 8] = __fadd_rn(rests[i % 8], __fmul_rn(weights.of[i], rest));
  }
  levels.error = sum_of_eight(errors);
  return __fdiv_rn(sum_of_eight(rests), weights.sum);
}

/// The best of some around the range of the group in units of d.
__device__ __forceinline__ Levels best_levels(const float (&w)[kGroup], const ErrorWeights& weights,
                                              float d) {
  constexpr int kRounds = 3;
  constexpr float kNarrowest = 0.7F;
  float x[kGroup];
  x[0] = in_units(w[0], d);
  float least = x[0];
  float highest = x[0];
#pragma unroll
  for (int i = 1; i < kGroup; ++i) {
    x[i] = in_units(w[i], d);
    least = x[i] < least ? x[i] : least;
    highest = highest < x[i] ? x[i] : highest;
  }
  const float range = __fsub_rn(highest, least);
  const float widest = within(ceilf(__fdiv_rn(range, kMostCode)), 1.0F, kMostLevel / kMostCode);
  Levels found;
  for (float s = widest; s >= 1.0F && s >= floorf(__fmul_rn(kNarrowest, widest)); s -= 1.0F) {
    const float width = __fmul_rn(kMostCode, s);
    float m = __fadd_rn(least, __fdiv_rn(__fsub_rn(range, width), 2.0F));
    Levels levels{s, -1.0F};
    for (int round = 0; round < kRounds; ++round) {
      const float next = within(nearest(m), 0.0F, __fsub_rn(kMostLevel, width));
      if (next == levels.m) {
        break;
      }
      levels.m = next;
      m = judge(x, weights, levels);
      if (levels.error < found.error) {
        found = levels;
      }
    }
  }
  return found;
}

}  // namespace moesaic::cuda::packed
