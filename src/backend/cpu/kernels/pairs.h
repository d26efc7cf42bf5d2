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
    U16 words{};
    if (n >= 2 * kLanes) {
      std::memcpy(&words, p, sizeof words);
    } else {
      std::memcpy(&words, p, static_cast<std::size_t>(n) * sizeof *p);
    }
    return words;
  }
  static U16 across(const BFloat16* p, Index ld, Index n, Index depth) {
    const U16 even = reinterpret_cast<U16>(load(p, n)) >> 16;
    return depth < 2 ? even : even | reinterpret_cast<U16>(load(p + ld, n));
  }
  static U16 across(const F16 (&terms)[kElements]) {
    const auto halves = reinterpret_cast<H32>(_mm512_cvtne2ps_pbh(
        reinterpret_cast<__m512>(terms[1]), reinterpret_cast<__m512>(terms[0])));
    return reinterpret_cast<U16>(
        __builtin_shufflevector(halves, halves, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7,
                                23, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31));
  }
  static void store_along(Word* p, F16 terms) {
    const __m256bh halves = _mm512_cvtneps_pbh(reinterpret_cast<__m512>(terms));
    std::memcpy(p, &halves, sizeof halves);
  }
};

}  // namespace
}  // namespace moesaic::cpu::MOESAIC_ISA
