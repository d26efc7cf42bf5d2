// Products with int8 and int4 weights on processors without instructions for bytes.
#ifdef __AVX2__
#include <immintrin.h>
#endif

#include "backend/cpu/kernels/instruction_set_kernels.h"
#include "backend/cpu/kernels/packed_rows.h"

namespace moesaic::cpu::MOESAIC_ISA {
namespace {

using SignedHalves = std::int16_t __attribute__((vector_size(4 * kWidth)));

// In each lane the sum of two products of 16 bits, which is exact: sums of products of bytes with
// signed bytes (vpmaddubsw) would be cut off at 16 bits.
Words products(Words a, Words b) {
#if defined(__AVX512BW__)
  return reinterpret_cast<Words>(
      _mm512_madd_epi16(reinterpret_cast<__m512i>(a), reinterpret_cast<__m512i>(b)));
#elif defined(__AVX2__)
  return reinterpret_cast<Words>(
      _mm256_madd_epi16(reinterpret_cast<__m256i>(a), reinterpret_cast<__m256i>(b)));
#else
  const auto low = [](Words v) { return reinterpret_cast<Integers>(v << 16) >> 16; };
  const auto high = [](Words v) { return reinterpret_cast<Integers>(v) >> 16; };
  return reinterpret_cast<Words>(low(a) * low(b) + high(a) * high(b));
#endif
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

}  // namespace

const PackedKernels& packed_int8() { return kInt8Kernels<Split>; }
const PackedKernels& packed_int4() { return kInt4Kernels<Split>; }

}  // namespace moesaic::cpu::MOESAIC_ISA
