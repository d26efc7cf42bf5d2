// Products of bytes with AVX512-VNNI.
#include <immintrin.h>

#include "backend/cpu/kernels/packed_rows.h"

namespace moesaic::cpu::MOESAIC_ISA {
namespace {

struct Vnni {
  static constexpr int kTileRows = MOESAIC_TILE_ROWS;

  struct Row {
    Words word;
    explicit Row(Word value) : word(value - Words{}) {}
  };
  static Integers step(Integers sum, Words u, const Row& a) {
    return reinterpret_cast<Integers>(_mm512_dpbusd_epi32(reinterpret_cast<__m512i>(sum),
                                                          reinterpret_cast<__m512i>(u),
                                                          reinterpret_cast<__m512i>(a.word)));
  }
};

}  // namespace

const PackedKernels& packed_int8() { return kInt8Kernels<Vnni>; }
const PackedKernels& packed_int4() { return kInt4Kernels<Vnni>; }

}  // namespace moesaic::cpu::MOESAIC_ISA
