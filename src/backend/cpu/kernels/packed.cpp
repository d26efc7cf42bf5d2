// Products with packed weights on processors without instructions for them.
#include <immintrin.h>

#include "backend/cpu/kernels/packed_rows.h"

namespace moesaic::cpu::MOESAIC_ISA {
namespace {

// In each lane the sum of two products of 16 bits, which is exact: sums of products of bytes with
// signed bytes (vpmaddubsw) would be cut off at 16 bits.
inline I16 products(U16 a, U16 b) {
  if constexpr (kOneRegister) {
    return reinterpret_cast<I16>(
        _mm512_madd_epi16(reinterpret_cast<__m512i>(a), reinterpret_cast<__m512i>(b)));
  } else {
    __m256i left[2];
    __m256i right[2];
    std::memcpy(left, &a, sizeof a);
    std::memcpy(right, &b, sizeof b);
    left[0] = _mm256_madd_epi16(left[0], right[0]);
    left[1] = _mm256_madd_epi16(left[1], right[1]);
    I16 out;
    std::memcpy(&out, left, sizeof out);
    return out;
  }
}

struct Split {
  static constexpr int kTileRows = kOneRegister ? 12 : 6;

  /// The bytes at even and at odd places of a word, as 16 bits, in all lanes.
  struct Row {
    U16 even, odd;
    explicit Row(Word word)
        : even(signed_halves(word << 8) - U16{}), odd(signed_halves(word) - U16{}) {}
    /// The upper bytes of both halves.
    static Word signed_halves(Word word) {
      const auto upper = static_cast<std::int16_t>(word >> 16) >> 8;
      const auto lower = static_cast<std::int16_t>(word & 0xffffU) >> 8;
      return static_cast<Word>(upper) << 16 | (static_cast<Word>(lower) & 0xffffU);
    }
  };
  static I16 step(I16 sum, U16 u, const Row& a) {
    sum += products(u & 0x00ff00ffU, a.even);
    return sum + products((u >> 8) & 0x00ff00ffU, a.odd);
  }
};

/// bf16 widened to fp32.
struct Widened {
  static constexpr int kTileRows = MOESAIC_TILE_ROWS;

  struct Row {
    F16 first, second;
    explicit Row(Word word)
        : first(reinterpret_cast<F16>((word << 16) - U16{})),
          second(reinterpret_cast<F16>((word & 0xffff0000U) - U16{})) {}
  };
  static F16 step(F16 sum, U16 w, const Row& a) {
    sum += reinterpret_cast<F16>(w << 16) * a.first;
    return sum + reinterpret_cast<F16>(w & 0xffff0000U) * a.second;
  }
};

}  // namespace

const PackedKernels& packed(PackedFormat format) {
  switch (format) {
    case PackedFormat::kBf16:
      return kBf16Kernels<Widened>;
    case PackedFormat::kInt8:
      return kInt8Kernels<Split>;
    case PackedFormat::kInt4:
      break;
  }
  return kInt4Kernels<Split>;
}

}  // namespace moesaic::cpu::MOESAIC_ISA
