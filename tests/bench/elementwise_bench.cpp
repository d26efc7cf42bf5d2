// Sums and conversions of whole arrays: bound by memory.
#include "kernels_bench.h"

namespace moesaic::bench {
namespace {

void sums_of_squares(benchmark::State& state) {
  const Tensor x = normal({kWeights});
  const Tensor sums = zeros({1}, DType::kF64);
  for (auto _ : state) {
    backend().sums_of_squares(std::span(&x, 1), sums);
  }
  count_bytes(state, x.bytes());
}
BENCHMARK(sums_of_squares)->UseRealTime();

void add(benchmark::State& state) {
  const Tensor x = normal({kTokens, kDim});
  const Tensor sum = zeros(x.shape());
  for (auto _ : state) {
    backend().add(x, sum);
  }
  count_bytes(state, 3 * x.bytes());
}
BENCHMARK(add)->UseRealTime();

// dtype of the result, from the other one
void convert(benchmark::State& state) {
  const DType to = dtype_of_case(state);
  const Tensor x = normal({kWeights}, to == DType::kF32 ? DType::kBf16 : DType::kF32);
  const Tensor y = zeros(x.shape(), to);
  for (auto _ : state) {
    backend().convert(x, y);
  }
  count_bytes(state, x.bytes() + y.bytes());
}
BENCHMARK(convert)->ArgsProduct({{0, 1}})->UseRealTime();

}  // namespace
}  // namespace moesaic::bench
