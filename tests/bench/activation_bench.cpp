// SwiGLU: bound by memory.
#include "kernels_bench.h"

namespace moesaic::bench {
namespace {

// All rows at the experts: dtype
void swiglu(benchmark::State& state) {
  const DType dtype = dtype_of_case(state);
  const Tensor gate_up = normal({kRows, 2 * kHidden}, dtype);
  const Tensor y = zeros({kRows, kHidden}, dtype);
  for (auto _ : state) {
    backend().swiglu(gate_up, 0.0F, y);
  }
  count_bytes(state, gate_up.bytes() + y.bytes());
}
BENCHMARK(swiglu)->ArgsProduct({{0, 1}})->UseRealTime();

void swiglu_backward(benchmark::State& state) {
  const DType dtype = dtype_of_case(state);
  const Tensor gate_up = normal({kRows, 2 * kHidden}, dtype);
  const Tensor dy = normal({kRows, kHidden}, dtype);
  const Tensor dgate_up = zeros(gate_up.shape(), dtype);
  for (auto _ : state) {
    backend().swiglu_backward(dy, gate_up, 0.0F, dgate_up);
  }
  count_bytes(state, dy.bytes() + gate_up.bytes() + dgate_up.bytes());
}
BENCHMARK(swiglu_backward)->ArgsProduct({{0, 1}})->UseRealTime();

}  // namespace
}  // namespace moesaic::bench
