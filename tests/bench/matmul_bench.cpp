// Matrix products, whole and by expert: bound by multiply-adds.
#include "kernels_bench.h"

namespace moesaic::bench {
namespace {

// One layer y (T, N) = x (T, D) w^T and its backward: N, dtype. 16: the gate, 1536: query, key and
// value, 8192: the head.
struct Layer {
  Layer(std::int64_t width, DType dtype)
      : x(normal({kTokens, kDim}, dtype)),
        w(normal({width, kDim}, dtype)),
        y(normal({kTokens, width}, dtype)) {}

  double flop() const { return flop_of(kTokens, w.dim(0), kDim); }

  Tensor x, w, y;
};

void matmul(benchmark::State& state) {
  const Layer layer(state.range(0), dtype_of_case(state, 1));
  for (auto _ : state) {
    backend().matmul(layer.x, Transpose::kNo, layer.w, Transpose::kYes, layer.y, Write::kOverwrite);
  }
  count_flop(state, layer.flop());
}
BENCHMARK(matmul)->ArgsProduct({{16, 512, 1536, 8192}, {0, 1}})->UseRealTime();

void matmul_dx(benchmark::State& state) {
  const Layer layer(state.range(0), dtype_of_case(state, 1));
  for (auto _ : state) {
    backend().matmul(layer.y, Transpose::kNo, layer.w, Transpose::kNo, layer.x, Write::kOverwrite);
  }
  count_flop(state, layer.flop());
}
BENCHMARK(matmul_dx)->ArgsProduct({{16, 512, 1536, 8192}, {0, 1}})->UseRealTime();

void matmul_dw(benchmark::State& state) {
  const Layer layer(state.range(0), dtype_of_case(state, 1));
  const Tensor dw = zeros(layer.w.shape());
  for (auto _ : state) {
    backend().matmul(layer.y, Transpose::kYes, layer.x, Transpose::kNo, dw, Write::kAdd);
  }
  count_flop(state, layer.flop());
}
BENCHMARK(matmul_dw)->ArgsProduct({{16, 512, 1536, 8192}, {0, 1}})->UseRealTime();

// Gate and up of all experts, with as many rows as i + 1 for expert i: N, dtype
struct ExpertLayer {
  ExpertLayer(std::int64_t width, DType dtype)
      : x(normal({kRows, kDim}, dtype)),
        w(normal({kExperts, width, kDim}, dtype)),
        y(normal({kRows, width}, dtype)) {
    std::vector<std::int32_t> begins;
    for (std::int64_t i = 0; i <= kExperts; ++i) {
      begins.push_back(
          static_cast<std::int32_t>(kRows * i * (i + 1) / (kExperts * (kExperts + 1))));
    }
    offsets = indices(begins, {kExperts + 1});
  }

  double flop() const { return flop_of(kRows, w.dim(1), kDim); }

  Tensor x, w, y, offsets;
};

void grouped_matmul(benchmark::State& state) {
  const ExpertLayer layer(state.range(0), dtype_of_case(state, 1));
  for (auto _ : state) {
    backend().grouped_matmul(layer.x, layer.offsets, layer.w, layer.y);
  }
  count_flop(state, layer.flop());
}
BENCHMARK(grouped_matmul)->ArgsProduct({{kHidden, 2 * kHidden}, {0, 1}})->UseRealTime();

void grouped_matmul_dx(benchmark::State& state) {
  const ExpertLayer layer(state.range(0), dtype_of_case(state, 1));
  for (auto _ : state) {
    backend().grouped_matmul_dx(layer.y, layer.offsets, layer.w, layer.x);
  }
  count_flop(state, layer.flop());
}
BENCHMARK(grouped_matmul_dx)->ArgsProduct({{kHidden, 2 * kHidden}, {0, 1}})->UseRealTime();

void grouped_matmul_dw(benchmark::State& state) {
  const ExpertLayer layer(state.range(0), dtype_of_case(state, 1));
  const Tensor dw = zeros(layer.w.shape());
  for (auto _ : state) {
    backend().grouped_matmul_dw(layer.y, layer.x, layer.offsets, dw);
  }
  count_flop(state, layer.flop());
}
BENCHMARK(grouped_matmul_dw)->ArgsProduct({{kHidden, 2 * kHidden}, {0, 1}})->UseRealTime();

}  // namespace
}  // namespace moesaic::bench
