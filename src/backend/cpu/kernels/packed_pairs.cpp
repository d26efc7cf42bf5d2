// Products with packed weights of bf16 with AVX512-BFloats, two numbers at a time.
#include <immintrin.h>

#include "backend/cpu/kernels/packed_rows.h"

namespace moesaic::cpu::MOESAIC_ISA {
namespace {

struct Pairs {
  static constexpr int kTileRows = MOESAIC_TILE_ROWS;

  struct Row {
    Words word;
    explicit Row(Word value) : word(value - Words{}) {}
  };
  static Floats step(Floats sum, Words w, const Row& a) {
    return reinterpret_cast<Floats>(_mm512_dpbf16_ps(reinterpret_cast<__m512>(sum),
                                                     reinterpret_cast<__m512bh>(a.word),
                                                     reinterpret_cast<__m512bh>(w)));
  }
};

}  // namespace

const PackedKernels& packed_bf16() { return kBf16Kernels<Pairs>; }

}  // namespace moesaic::cpu::MOESAIC_ISA
