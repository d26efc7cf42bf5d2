// Products with packed weights on processors without instructions for them.
#include <immintrin.h>

#include "backend/cpu/kernels/packed_rows.h"

namespace moesaic::cpu::MOESAIC_ISA {
namespace {

using SignedHalves = std::int16_t __attribute__((vector_size(4 * kWidth)));

// In each lane the sum of two products of 16 bits, which is exact: sums of products of bytes with
// signed bytes (vpmaddubsw) would be cut off at 16 bits.
template <class V>
V products(V a, V b) {
  if constexpr (kOneRegister) {
    return reinterpret_cast<V>(
        _mm512_madd_epi16(reinterpret_cast<__m512i>(a), reinterpret_cast<__m512i>(b)));
  } else {
    return reinterpret_cast<V>(
        _mm256_madd_epi16(reinterpret_cast<__m256i>(a), reinterpret_cast<__m256i>(b)));
  }
}

struct Split {
  static constexpr int kTileRows = kOneRegister ? 12 : 4;

  /// The bytes at even and at odd places of a word, as 16 bits with signs, in all lanes.
  struct Row {
    Words even, odd;
    explicit Row(Word word) {
      const auto all = reinterpret_cast<SignedHalves>(word - Words{});
      even = reinterpret_cast<Words>((all << 8) >> 8);
      odd = reinterpret_cast<Words>(all >> 8);
    }
  };
  static Integers step(Integers sum, Words u, const Row& a) {
    const Words even = products(u & 0x00ff00ffU, a.even);
    const Words odd = products((u >> 8) & 0x00ff00ffU, a.odd);
    return sum + reinterpret_cast<Integers>(even + odd);
  }
};

/// bf16 widened to fp32.
struct Widened {
  static constexpr int kTileRows = MOESAIC_TILE_ROWS;

  struct Row {
    Floats first, second;
    explicit Row(Word word)
        : first(reinterpret_cast<Floats>((word - Words{}) << 16)),
          second(reinterpret_cast<Floats>((word - Words{}) & 0xffff0000U)) {}
  };
  static Floats step(Floats sum, Words w, const Row& a) {
    sum += reinterpret_cast<Floats>(w << 16) * a.first;
    return sum + reinterpret_cast<Floats>(w & 0xffff0000U) * a.second;
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
