#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "tensor/bf16.h"

// Sixteen floats as GCC's generic vectors: one AVX-512 register or two AVX2 ones. Everything has
// internal linkage, since this header is compiled for several instruction sets.
namespace moesaic::cpu {
namespace {

using Index = std::int64_t;
using F16 = float __attribute__((vector_size(64)));
using I16 = std::int32_t __attribute__((vector_size(64)));
using U16 = std::uint32_t __attribute__((vector_size(64)));
using H16 = std::uint16_t __attribute__((vector_size(32)));
using H32 = std::uint16_t __attribute__((vector_size(64)));

constexpr Index kLanes = 16;

// What one register holds, for loops that keep their sums in registers: GCC 12 moves longer vectors
// through memory.
#if defined(__AVX512F__)
constexpr Index kRegister = 16;
#elif defined(__AVX2__)
constexpr Index kRegister = 8;
#else
constexpr Index kRegister = 4;
#endif
// The compiler moves lanes of 16 bits well within one register, and badly between two.
constexpr bool kOneRegister = kRegister == kLanes;
using FR = float __attribute__((vector_size(4 * kRegister)));
using UR = std::uint32_t __attribute__((vector_size(4 * kRegister)));

template <class V, class T>
inline V load_register(const T* p) {
  V v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
inline void store_register(float* p, FR v) { std::memcpy(p, &v, sizeof v); }

constexpr Index round_up(Index n) { return (n + kLanes - 1) / kLanes * kLanes; }
constexpr Index smaller(Index a, Index b) { return a < b ? a : b; }
constexpr Index larger(Index a, Index b) { return a < b ? b : a; }

inline F16 splat(float value) { return value - F16{}; }

inline F16 load(const float* p) {
  F16 v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
inline F16 load(const BFloat16* p) {
  H16 half;
  std::memcpy(&half, p, sizeof half);
  if constexpr (kOneRegister) {
    const auto twice =
        __builtin_shufflevector(half, half, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9,
                                9, 10, 10, 11, 11, 12, 12, 13, 13, 14, 14, 15, 15);
    return reinterpret_cast<F16>(reinterpret_cast<U16>(twice) & 0xffff0000U);
  }
  return reinterpret_cast<F16>(__builtin_convertvector(half, U16) << 16);
}
inline void store(float* p, F16 v) { std::memcpy(p, &v, sizeof v); }
// A bf16 number in the upper half of each lane.
inline U16 rounded(F16 v) {
  const U16 word = reinterpret_cast<U16>(v);
  const U16 nearest = word + 0x7fffU + ((word >> 16) & 1U);
  return v != v ? word | 0x400000U : nearest;
}
inline void store(BFloat16* p, F16 v) {
  const U16 word = rounded(v);
  H16 half;
  if constexpr (kOneRegister) {
    const auto both = reinterpret_cast<H32>(word);
    half = __builtin_shufflevector(both, both, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27,
                                   29, 31);
  } else {
    half = __builtin_convertvector(word >> 16, H16);
  }
  std::memcpy(static_cast<void*>(p), &half, sizeof half);
}

// Thirty-two neighbours, for loops in which the order of lanes does not matter: of bf16 those at
// even and at odd places, since these are taken apart and joined with the fewest instructions.
struct Pair {
  F16 first, second;
};
inline Pair load_pair(const float* p) { return {load(p), load(p + kLanes)}; }
inline Pair load_pair(const BFloat16* p) {
  U16 both;
  std::memcpy(&both, p, sizeof both);
  return {reinterpret_cast<F16>(both << 16), reinterpret_cast<F16>(both & 0xffff0000U)};
}
inline void store_pair(float* p, Pair v) {
  store(p, v.first);
  store(p + kLanes, v.second);
}
inline void store_pair(BFloat16* p, Pair v) {
  const U16 both = (rounded(v.first) >> 16) | (rounded(v.second) & 0xffff0000U);
  std::memcpy(static_cast<void*>(p), &both, sizeof both);
}

// The first n lanes (n <= 16); the other lanes of a load are zero.
template <class A>
inline F16 load(const A* p, Index n) {
  if (n >= kLanes) {
    return load(p);
  }
  A lanes[kLanes] = {};
  std::memcpy(static_cast<void*>(lanes), p, static_cast<std::size_t>(n) * sizeof(A));
  return load(lanes);
}
template <class A>
inline void store(A* p, F16 v, Index n) {
  if (n >= kLanes) {
    store(p, v);
    return;
  }
  A lanes[kLanes];
  store(lanes, v);
  std::memcpy(static_cast<void*>(p), lanes, static_cast<std::size_t>(n) * sizeof(A));
}

// v[i][j] becomes v[j][i]: exchanges of blocks of 8, 4, 2 and 1.
inline void transpose(U16 (&v)[16]) {
  for (int i = 0; i < 8; ++i) {
    const U16 a = v[i], b = v[i + 8];
    v[i] = __builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23);
    v[i + 8] =
        __builtin_shufflevector(a, b, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
  }
  for (int h = 0; h < 16; h += 8) {
    for (int i = h; i < h + 4; ++i) {
      const U16 a = v[i], b = v[i + 4];
      v[i] =
          __builtin_shufflevector(a, b, 0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27);
      v[i + 4] =
          __builtin_shufflevector(a, b, 4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31);
    }
  }
  for (int h = 0; h < 16; h += 4) {
    for (int i = h; i < h + 2; ++i) {
      const U16 a = v[i], b = v[i + 2];
      v[i] =
          __builtin_shufflevector(a, b, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29);
      v[i + 2] =
          __builtin_shufflevector(a, b, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31);
    }
  }
  for (int i = 0; i < 16; i += 2) {
    const U16 a = v[i], b = v[i + 1];
    v[i] = __builtin_shufflevector(a, b, 0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30);
    v[i + 1] =
        __builtin_shufflevector(a, b, 1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31);
  }
}

// By halves, in an order that is the same for every instruction set.
inline float sum(F16 v) {
  v += __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7);
  v += __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3);
  v += __builtin_shufflevector(v, v, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1);
  return v[0] + v[1];
}
// NaN if b is NaN, as the processor has it.
inline F16 max(F16 a, F16 b) { return a > b ? a : b; }
inline float max(F16 v) {
  v = max(v, __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7));
  v = max(v, __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3));
  v = max(v, __builtin_shufflevector(v, v, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1));
  return v[0] > v[1] ? v[0] : v[1];
}

// exp by 2^n times a polynomial of the rest, relative error below 4e-7; 0 below -87, as exp(-87) is
// the smallest normal float; exp(88) above 88; NaN of NaN.
inline F16 exp(F16 x) {
  const F16 high = splat(88.0F);
  const I16 under = x < splat(-87.0F);
  x = high < x ? high : x;
  const F16 magic = splat(12582912.0F);  // 1.5 * 2^23: a sum with it ends in the bits of an integer
  const F16 shifted = x * 1.44269504089F + magic;
  const F16 r = x - (shifted - magic) * 0.69314718056F;
  F16 p = splat(1.3814536e-3F);  // of least relative error for |r| <= ln 2 / 2: below 4e-9
  p = p * r + 8.368745e-3F;
  p = p * r + 4.166839e-2F;
  p = p * r + 1.6666521e-1F;
  p = p * r + 4.9999994e-1F;
  p = p * r + 1.0F;
  p = p * r + 1.0F;
  const U16 result = reinterpret_cast<U16>(p) + (reinterpret_cast<U16>(shifted) << 23);
  return under ? F16{} : reinterpret_cast<F16>(result);
}

// A constant that the compiler does not know: a maximum with it is one instruction, not two.
inline F16 hidden(float value) {
  __asm__("" : "+x"(value));
  return splat(value);
}

// 2^x for x < 127, relative error below 2e-7, without a bound for what is above; less than the
// smallest normal float below -126; NaN of NaN.
inline F16 exp2(F16 x) {
  const F16 magic = splat(12582912.0F);  // as in exp
  x = max(hidden(-127.0F), x);
  const F16 shifted = x + magic;
  const F16 r = x - (shifted - magic);
  F16 p = splat(1.3264727e-3F);  // of least relative error for |r| <= 1/2: below 1e-7
  p = p * r + 9.671513e-3F;
  p = p * r + 5.5507336e-2F;
  p = p * r + 2.4022242e-1F;
  p = p * r + 6.93147e-1F;
  p = p * r + 1.0F;
  return reinterpret_cast<F16>(reinterpret_cast<U16>(p) + (reinterpret_cast<U16>(shifted) << 23));
}

inline float exp(float x) { return exp(splat(x))[0]; }

}  // namespace
}  // namespace moesaic::cpu
