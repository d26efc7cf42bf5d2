#include "backend/cuda/matmul_bf16.cuh"

#include <algorithm>

namespace moesaic::cuda {
namespace {

// Rows of c that belong together.
int rows_of_group(const Product& p) {
  return p.groups == Groups::kRows ? (p.m + p.count - 1) / p.count : p.m;
}

std::int64_t tiles_of(const Product& p, int edge) {
  const std::int64_t rows = (p.m + edge - 1) / edge;
  const std::int64_t columns = (p.n + edge - 1) / edge;
  return rows * columns * (p.groups == Groups::kDepth ? p.count : 1);
}

}  // namespace

Cut cut_of_bf16(const Product& p, int multiprocessors) {
  const int rows = rows_of_group(p);
  if (rows <= Bf16Tiny::kRows) {
    return Cut::kTiny;
  }
  if (rows <= Bf16Small::kRows) {
    return Cut::kSmall;
  }
  return tiles_of(p, Bf16Large::kRows) < multiprocessors ? Cut::kMedium : Cut::kLarge;
}

void multiply_bf16(cudaStream_t stream, const Product& product, Cut cut) {
  // What few rows meet are weights of a forward pass, both along k.
  const bool along =
      product.a_inner == Inner::kDepth && product.b_inner == Inner::kDepth && product.wide;
  if (cut == Cut::kTiny && along) {
    launch_bf16<Bf16Tiny, Inner::kDepth, Inner::kDepth, true>(stream, product);
  } else if (cut == Cut::kSmall && along) {
    launch_bf16<Bf16Small, Inner::kDepth, Inner::kDepth, true>(stream, product);
  } else if (cut == Cut::kLarge && product.wide) {
    large_bf16(stream, product);
  } else {
    medium_bf16(stream, product);
  }
}

}  // namespace moesaic::cuda
