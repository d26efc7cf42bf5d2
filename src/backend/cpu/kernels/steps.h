#pragma once

// How a sum of products advances: by words of 32 bits. A word is one fp32 number, or two bf16 ones
// where the processor has bf16 dot products (pairs.h).
#include "backend/cpu/kernels/simd.h"

namespace moesaic::cpu::MOESAIC_ISA {
namespace {

using Word = std::uint32_t;

inline void store_words(Word* p, U16 v) { std::memcpy(p, &v, sizeof v); }
inline UR splat_word(Word value) { return value - UR{}; }

/// Words of one fp32 number each; bf16 is widened, which changes no product.
struct Fma {
  static constexpr Index kElements = 1;  // of a word

  static FR step(FR sum, UR a, UR b) {
    return sum + reinterpret_cast<FR>(a) * reinterpret_cast<FR>(b);
  }
  /// Sixteen words along k, of at most n elements.
  template <class A>
  static U16 along(const A* p, Index n) {
    return reinterpret_cast<U16>(load(p, n));
  }
  /// One word of each of sixteen neighbours, of which n exist; k goes in steps of ld.
  template <class A>
  static U16 across(const A* p, Index /*ld*/, Index n, Index /*depth*/) {
    return reinterpret_cast<U16>(load(p, n));
  }
  /// One word of each of sixteen neighbours, from registers: a vector for each element of a word.
  static U16 across(const F16 (&terms)[kElements]) { return reinterpret_cast<U16>(terms[0]); }
  /// Writes the words of sixteen neighbours along k.
  static void store_along(Word* p, F16 terms) { store_words(p, reinterpret_cast<U16>(terms)); }
};

/// Words that hold so many terms of a sum.
template <class Step>
constexpr Index words_of(Index depth) {
  return (depth + Step::kElements - 1) / Step::kElements;
}

}  // namespace
}  // namespace moesaic::cpu::MOESAIC_ISA
