// Products of bf16 with AVX512-BF16, two numbers of each operand at a time.
#include <immintrin.h>

#include "backend/cpu/kernels/gemm.h"

namespace moesaic::cpu::MOESAIC_ISA {
namespace {

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
};

}  // namespace

void gemm(const Gemm<BFloat16, float>& g, void* scratch) { multiply<Pairs>(g, scratch); }
void gemm(const Gemm<BFloat16, BFloat16>& g, void* scratch) { multiply<Pairs>(g, scratch); }

}  // namespace moesaic::cpu::MOESAIC_ISA
