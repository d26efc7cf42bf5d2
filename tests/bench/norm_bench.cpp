// RMS norm: bound by memory.
#include "kernels_bench.h"

namespace moesaic::bench {
namespace {

// dtype of y
void rms_norm(benchmark::State& state) {
  const Tensor x = normal({kTokens, kDim});
  const Tensor weight = normal({kDim});
  const Tensor y = zeros(x.shape(), dtype_of_case(state));
  const Tensor rstd = zeros({kTokens});
  for (auto _ : state) {
    backend().rms_norm(x, weight, 1e-5F, y, rstd);
  }
  count_bytes(state, x.bytes() + y.bytes() + rstd.bytes());
}
BENCHMARK(rms_norm)->ArgsProduct({{0, 1}})->UseRealTime();

void rms_norm_backward(benchmark::State& state) {
  const Tensor x = normal({kTokens, kDim});
  const Tensor weight = normal({kDim});
  const Tensor y = zeros(x.shape());
  const Tensor rstd = zeros({kTokens});
  backend().rms_norm(x, weight, 1e-5F, y, rstd);
  const Tensor dx = zeros(x.shape());
  const Tensor dweight = zeros({kDim});
  for (auto _ : state) {
    backend().rms_norm_backward(y, x, weight, rstd, dx, dweight);
  }
  count_bytes(state, y.bytes() + x.bytes() + dx.bytes() + rstd.bytes());
}
BENCHMARK(rms_norm_backward)->UseRealTime();

}  // namespace
}  // namespace moesaic::bench
