#pragma once

// Steps of a product with AVX512-BF16, two numbers of each operand at a time.
#include <immintrin.h>

#include "backend/cpu/kernels/steps.h"

namespace moesaic::cpu::MOESAIC_ISA {
namespace {

/// As Fma of steps.h; a sum counts subnormal numbers as zero.
struct Pairs {
  static constexpr Index kElements = 2;

  static F16 step(F16 sum, U16 a, U16 b) {
    return reinterpret_cast<F16>(_mm512_dpbf16_ps(reinterpret_cast<__m512>(sum),
                                                  reinterpret_cast<__m512bh>(a),
                                                  reinterpret_cast<__m512bh>(b)));
  }
  static U16 along(const BFloat16* p, Index n) {
    return reinterpret_cast<U16>(n >= 2 * kLanes ? _mm512_loadu_si512(p)
                                                 : _mm512_maskz_loadu_epi16((1U << n) - 1U, p));
  }
  static U16 across(const BFloat16* p, Index ld, Index n, Index depth) {
    const H16 even = neighbours(p, n);
    const H16 odd = depth < 2 ? H16{} : neighbours(p + ld, n);
    return reinterpret_cast<U16>(
        __builtin_shufflevector(even, odd, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23,
                                8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31));
  }
  static U16 across(const F16 (&terms)[kElements]) {
    const auto both = reinterpret_cast<H32>(_mm512_cvtne2ps_pbh(
        reinterpret_cast<__m512>(terms[1]), reinterpret_cast<__m512>(terms[0])));
    return reinterpret_cast<U16>(
        __builtin_shufflevector(both, both, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23,
                                8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31));
  }
  static void store_along(Word* p, F16 terms) {
    const __m256bh halves = _mm512_cvtneps_pbh(reinterpret_cast<__m512>(terms));
    std::memcpy(p, &halves, sizeof halves);
  }

 private:
  static H16 neighbours(const BFloat16* p, Index n) {
    return reinterpret_cast<H16>(
        n >= kLanes ? _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))
                    : _mm256_maskz_loadu_epi16(static_cast<__mmask16>((1U << n) - 1U), p));
  }
};

}  // namespace
}  // namespace moesaic::cpu::MOESAIC_ISA
