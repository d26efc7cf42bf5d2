// AdamW: bound by memory.
#include "kernels_bench.h"

namespace moesaic::bench {
namespace {

// dtype of the copy (none for fp32)
void adamw(benchmark::State& state) {
  const Shape shape = {kWeights};
  const bool with_copy = dtype_of_case(state) == DType::kBf16;
  const Tensor grad = normal(shape);
  const Tensor value = normal(shape);
  const Tensor exp_avg = normal(shape);
  const Tensor exp_avg_sq = zeros(shape);
  const Tensor copy = with_copy ? zeros(shape, DType::kBf16) : Tensor();
  const AdamW step = {.lr = 1e-4F,
                      .beta1 = 0.9F,
                      .beta2 = 0.95F,
                      .eps = 1e-8F,
                      .weight_decay = 0.1F,
                      .correction1 = 0.5F,
                      .correction2 = 0.5F,
                      .grad_scale = 1.0F};
  const AdamWTensors tensors{step, grad, value, exp_avg, exp_avg_sq, copy};
  for (auto _ : state) {
    backend().adamw(std::span(&tensors, 1));
  }
  // Reads four arrays and writes three of them.
  count_bytes(state, 7 * grad.bytes() + (with_copy ? copy.bytes() : 0));
}
BENCHMARK(adamw)->ArgsProduct({{0, 1}})->UseRealTime();

}  // namespace
}  // namespace moesaic::bench
