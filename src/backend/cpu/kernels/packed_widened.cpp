// Products with packed weights of bf16 on processors without instructions for them.
#include "backend/cpu/kernels/instruction_set_kernels.h"
#include "backend/cpu/kernels/packed_rows.h"

namespace moesaic::cpu::MOESAIC_ISA {
namespace {

/// bf16 widened to fp32.
struct Widened {
  static constexpr int kTileRows = MOESAIC_TILE_ROWS > 4 ? MOESAIC_TILE_ROWS : 4;

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

const PackedKernels& packed_bf16() { return kBf16Kernels<Widened>; }

}  // namespace moesaic::cpu::MOESAIC_ISA
