#pragma once

#include <math.h>  // NOLINT: the names without std

#include <bit>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "cuda_on_host/block.h"

// What kernels call by CUDA's names. Approximate functions (__expf, __fdividef) are missing on
// purpose.
// NOLINTBEGIN(readability-identifier-naming)

#define threadIdx (moesaic::cuda_on_host::this_thread->index)
#define blockIdx (moesaic::cuda_on_host::block_index)
#define blockDim (moesaic::cuda_on_host::block_dim)
#define gridDim (moesaic::cuda_on_host::grid_dim)
constexpr int warpSize = 32;

namespace moesaic::cuda_on_host {

using moesaic::Where;

/// One lane's part of a shuffle: its value, and whose value it gets.
struct Shuffle {
  std::uint64_t value = 0;
  int from = 0;
  std::uint64_t result = 0;
};
void shuffle(unsigned mask, const char* name, Shuffle& lane, Where where);

/// One lane's part of a vote: the lanes that hold, those of the same value, sums.
struct Vote {
  std::uint64_t value = 0;
  unsigned holding = 0;  // lanes whose value is not 0
  unsigned matching = 0;
  std::int64_t sum = 0, least = 0, most = 0;
  std::uint32_t all_bits = 0, any_bits = 0;
};
Vote vote(unsigned mask, const char* name, std::uint64_t value, Where where);

template <class T>
T shuffled(unsigned mask, const char* name, T value, int from, Where where) {
  static_assert(sizeof(T) <= 8 && std::is_trivially_copyable_v<T>);
  Shuffle lane;
  std::memcpy(&lane.value, &value, sizeof(T));
  lane.from = from;
  shuffle(mask, name, lane, where);
  std::memcpy(&value, &lane.result, sizeof(T));
  return value;
}

}  // namespace moesaic::cuda_on_host

// Barriers and fences.
inline void __syncthreads(moesaic::Where where = moesaic::Where::here()) {
  moesaic::cuda_on_host::barrier("__syncthreads", false, where);
}
inline int __syncthreads_count(int predicate, moesaic::Where where = moesaic::Where::here()) {
  return moesaic::cuda_on_host::barrier("__syncthreads_count", predicate != 0, where);
}
inline int __syncthreads_or(int predicate, moesaic::Where where = moesaic::Where::here()) {
  return moesaic::cuda_on_host::barrier("__syncthreads_or", predicate != 0, where) > 0 ? 1 : 0;
}
inline int __syncthreads_and(int predicate, moesaic::Where where = moesaic::Where::here()) {
  return moesaic::cuda_on_host::barrier("__syncthreads_and", predicate == 0, where) == 0 ? 1 : 0;
}
inline void __threadfence() {}
inline void __threadfence_block() {}

// Shuffles. A width divides the warp; a source beyond it gives the lane's own value.
template <class T>
T __shfl_sync(unsigned mask, T value, int lane, int width = 32,
              moesaic::Where where = moesaic::Where::here()) {
  const int me = moesaic::cuda_on_host::this_thread->lane;
  return moesaic::cuda_on_host::shuffled(mask, "__shfl_sync", value,
                                         me / width * width + (lane & (width - 1)), where);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32,
                  moesaic::Where where = moesaic::Where::here()) {
  const int me = moesaic::cuda_on_host::this_thread->lane;
  const int from = me ^ bits;
  return moesaic::cuda_on_host::shuffled(mask, "__shfl_xor_sync", value,
                                         from < me / width * width + width ? from : me, where);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned by, int width = 32,
                 moesaic::Where where = moesaic::Where::here()) {
  const int me = moesaic::cuda_on_host::this_thread->lane;
  const int from = me - static_cast<int>(by);
  return moesaic::cuda_on_host::shuffled(mask, "__shfl_up_sync", value,
                                         from < me / width * width ? me : from, where);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = 32,
                   moesaic::Where where = moesaic::Where::here()) {
  const int me = moesaic::cuda_on_host::this_thread->lane;
  const int from = me + static_cast<int>(by);
  return moesaic::cuda_on_host::shuffled(mask, "__shfl_down_sync", value,
                                         from < me / width * width + width ? from : me, where);
}

// Votes and sums.
inline void __syncwarp(unsigned mask = 0xffffffffU, moesaic::Where where = moesaic::Where::here()) {
  moesaic::cuda_on_host::vote(mask, "__syncwarp", 0, where);
}
inline unsigned __ballot_sync(unsigned mask, int predicate,
                              moesaic::Where where = moesaic::Where::here()) {
  return moesaic::cuda_on_host::vote(mask, "__ballot_sync", predicate != 0 ? 1 : 0, where).holding;
}
inline int __any_sync(unsigned mask, int predicate, moesaic::Where where = moesaic::Where::here()) {
  return moesaic::cuda_on_host::vote(mask, "__any_sync", predicate != 0 ? 1 : 0, where).holding != 0
             ? 1
             : 0;
}
inline int __all_sync(unsigned mask, int predicate, moesaic::Where where = moesaic::Where::here()) {
  return moesaic::cuda_on_host::vote(mask, "__all_sync", predicate != 0 ? 1 : 0, where).holding ==
                 mask
             ? 1
             : 0;
}
template <class T>
unsigned __match_any_sync(unsigned mask, T value, moesaic::Where where = moesaic::Where::here()) {
  std::uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  return moesaic::cuda_on_host::vote(mask, "__match_any_sync", bits, where).matching;
}
#define MOESAIC_REDUCE(name, T, member)                                                       \
  inline T name(unsigned mask, T value, moesaic::Where where = moesaic::Where::here()) {      \
    return static_cast<T>(                                                                    \
        moesaic::cuda_on_host::vote(                                                          \
            mask, #name, static_cast<std::uint64_t>(static_cast<std::int64_t>(value)), where) \
            .member);                                                                         \
  }
MOESAIC_REDUCE(__reduce_add_sync, int, sum)
MOESAIC_REDUCE(__reduce_add_sync, unsigned, sum)
MOESAIC_REDUCE(__reduce_max_sync, int, most)
MOESAIC_REDUCE(__reduce_max_sync, unsigned, most)
MOESAIC_REDUCE(__reduce_min_sync, int, least)
MOESAIC_REDUCE(__reduce_min_sync, unsigned, least)
MOESAIC_REDUCE(__reduce_and_sync, unsigned, all_bits)
MOESAIC_REDUCE(__reduce_or_sync, unsigned, any_bits)
#undef MOESAIC_REDUCE

// Atomics: of integers alone, as sums of floats would depend on the order.
#define MOESAIC_ATOMIC(name, T, expression)        \
  inline T name(T* at, T value) {                  \
    T old = __atomic_load_n(at, __ATOMIC_RELAXED); \
    const T next = (expression);                   \
    __atomic_store_n(at, next, __ATOMIC_RELAXED);  \
    return old;                                    \
  }
#define MOESAIC_ATOMICS(T)                                  \
  MOESAIC_ATOMIC(atomicAdd, T, static_cast<T>(old + value)) \
  MOESAIC_ATOMIC(atomicMax, T, old < value ? value : old)   \
  MOESAIC_ATOMIC(atomicMin, T, value < old ? value : old)   \
  MOESAIC_ATOMIC(atomicOr, T, old | value)                  \
  MOESAIC_ATOMIC(atomicAnd, T, old& value)                  \
  MOESAIC_ATOMIC(atomicExch, T, value)
MOESAIC_ATOMICS(int)
MOESAIC_ATOMICS(unsigned)
MOESAIC_ATOMICS(unsigned long long)
#undef MOESAIC_ATOMICS
#undef MOESAIC_ATOMIC
template <class T>
T atomicCAS(T* at, T expected, T value) {
  static_assert(std::is_integral_v<T>);
  const T old = __atomic_load_n(at, __ATOMIC_RELAXED);
  if (old == expected) {
    __atomic_store_n(at, value, __ATOMIC_RELAXED);
  }
  return old;
}

// Bits.
inline float __int_as_float(int bits) { return std::bit_cast<float>(bits); }
inline float __uint_as_float(unsigned bits) { return std::bit_cast<float>(bits); }
inline int __float_as_int(float value) { return std::bit_cast<int>(value); }
inline unsigned __float_as_uint(float value) { return std::bit_cast<unsigned>(value); }
inline double __longlong_as_double(long long bits) { return std::bit_cast<double>(bits); }
inline long long __double_as_longlong(double value) { return std::bit_cast<long long>(value); }
inline int __popc(unsigned value) { return std::popcount(value); }
inline int __clz(int value) { return std::countl_zero(static_cast<unsigned>(value)); }
inline int __ffs(int value) { return __builtin_ffs(value); }
unsigned __byte_perm(unsigned low, unsigned high, unsigned selector);
int __dp4a(int a, int b, int sum);

// Arithmetic that is never contracted (this is compiled with -ffp-contract=off).
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline float __fsqrt_rn(float a) { return sqrtf(a); }
inline float __frcp_rn(float a) { return 1.0F / a; }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dsub_rn(double a, double b) { return a - b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __ddiv_rn(double a, double b) { return a / b; }
inline double __fma_rn(double a, double b, double c) { return fma(a, b, c); }
inline float rsqrtf(float a) { return static_cast<float>(1.0 / sqrt(static_cast<double>(a))); }
inline double rsqrt(double a) { return 1.0 / sqrt(a); }
inline float __saturatef(float a) { return a > 0.0F ? (a < 1.0F ? a : 1.0F) : 0.0F; }

// Conversions: NaN becomes 0, and what is too large the largest.
int __float2int_rn(float value);
int __float2int_rz(float value);
int __float2int_rd(float value);
int __float2int_ru(float value);
unsigned __float2uint_rn(float value);
long long __float2ll_rn(float value);
inline float __int2float_rn(int value) { return static_cast<float>(value); }
inline float __uint2float_rn(unsigned value) { return static_cast<float>(value); }
inline float __ll2float_rn(long long value) { return static_cast<float>(value); }
inline double __int2double_rn(int value) { return value; }
inline float __double2float_rn(double value) { return static_cast<float>(value); }

#define MOESAIC_ORDER(T)                           \
  inline T min(T a, T b) { return b < a ? b : a; } \
  inline T max(T a, T b) { return a < b ? b : a; }
MOESAIC_ORDER(int)
MOESAIC_ORDER(unsigned)
MOESAIC_ORDER(long)
MOESAIC_ORDER(unsigned long)
MOESAIC_ORDER(long long)
MOESAIC_ORDER(unsigned long long)
#undef MOESAIC_ORDER
inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }
inline double min(double a, double b) { return fmin(a, b); }
inline double max(double a, double b) { return fmax(a, b); }

template <class T>
T __ldg(const T* at) {
  return *at;
}
template <class T>
T __ldcs(const T* at) {
  return *at;
}
template <class T>
void __stcs(T* at, T value) {
  *at = value;
}
// NOLINTEND(readability-identifier-naming)
