#include <array>
#include <limits>

#include "backend/cuda/products/matmul_bf16.cuh"
#include "backend/cuda/products/matmul_fp32.cuh"
#include "backend/cuda/products/product.h"
#include "base/error.h"

namespace moesaic::cuda {
namespace {

std::int64_t parts_of(std::int64_t n, std::int64_t unit) { return (n + unit - 1) / unit; }

std::int64_t row_tiles(const Product& p, int rows) {
  if (p.m == 0) {
    return 0;
  }
  return p.groups == Groups::kRows ? p.m / rows + p.count : parts_of(p.m, rows);
}

std::int64_t tiles_of(const Product& p, int rows, int columns) {
  return row_tiles(p, rows) * parts_of(p.n, columns) * (p.groups == Groups::kDepth ? p.count : 1);
}

}  // namespace

dim3 blocks_of(const Product& p, int rows, int columns) {
  const std::int64_t blocks = row_tiles(p, rows) * parts_of(p.n, columns);
  require(blocks <= std::numeric_limits<int>::max(), "a product of too many blocks");
  return {static_cast<unsigned>(blocks),
          p.groups == Groups::kDepth ? static_cast<unsigned>(p.count) : 1U};
}

Cut cut_of_bf16(const Product& p, int multiprocessors) {
  const std::int64_t rows_together = p.groups == Groups::kRows ? parts_of(p.m, p.count) : p.m;
  if (rows_together <= Bf16Tiny::kRows) {
    return Cut::kTiny;
  }
  if (rows_together <= Bf16Small::kRows) {
    return Cut::kSmall;
  }
  const bool enough = tiles_of(p, Bf16Large::kRows, Bf16Large::kColumns) >= multiprocessors;
  return enough ? Cut::kLarge : Cut::kMedium;
}

void multiply_bf16(cudaStream_t stream, const Product& p, Cut cut) {
  const bool along = p.wide && p.a_inner == Inner::kDepth && p.b_inner == Inner::kDepth;
  if (cut == Cut::kLarge && p.wide) {
    large_bf16(stream, p);
  } else if (cut == Cut::kSmall && along) {
    small_bf16(stream, p);
  } else if (cut == Cut::kTiny && along) {
    tiny_bf16(stream, p);
  } else {
    medium_bf16(stream, p);
  }
}

// Rates are by the loads from shared memory that each multiplication needs.
Cut cut_of_fp32(const Product& p, int multiprocessors) {
  struct Choice {
    Cut cut;
    int rows, columns;
    double rate;
  };
  constexpr std::array<Choice, 3> kChoices = {
      {{Cut::kMedium, Fp32Medium::kRows, Fp32Medium::kColumns, 1.0},
       {Cut::kSmall, Fp32Small::kRows, Fp32Small::kColumns, 0.7},
       {Cut::kTiny, Fp32Tiny::kRows, Fp32Tiny::kColumns, 0.4}}};
  Cut best = Cut::kMedium;
  double least = std::numeric_limits<double>::infinity();
  for (const Choice& choice : kChoices) {
    const std::int64_t turns = parts_of(tiles_of(p, choice.rows, choice.columns), multiprocessors);
    const double time = static_cast<double>(turns * choice.rows * choice.columns) / choice.rate;
    if (time < least) {
      least = time;
      best = choice.cut;
    }
  }
  return best;
}

void multiply_fp32(cudaStream_t stream, const Product& p, Cut cut) {
  if (cut == Cut::kTiny) {
    tiny_fp32(stream, p);
  } else if (cut == Cut::kSmall) {
    small_fp32(stream, p);
  } else {
    medium_fp32(stream, p);
  }
}

}  // namespace moesaic::cuda
