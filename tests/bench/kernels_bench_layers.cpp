// Norm, rotation, activation, embedding and loss: bound by memory.
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

// Queries and keys of a fused tensor: dtype. In place, so that they are read and written.
void rope(benchmark::State& state) {
  const Tensor qkv = normal({kTokens, 3 * kHeads * kHeadDim}, dtype_of_case(state));
  const Tensor frequency = normal({kHeadDim / 2});
  std::vector<std::int32_t> place;
  for (std::int64_t t = 0; t < kTokens; ++t) {
    place.push_back(static_cast<std::int32_t>(t % kDim));
  }
  const Tensor position = indices(place, {kTokens});
  for (auto _ : state) {
    backend().rope(qkv, {0, 2 * kHeads, kHeadDim, kHeadDim}, position, frequency, {},
                   Direction::kForward);
  }
  count_bytes(state, 2 * (qkv.bytes() / 3 * 2));
}
BENCHMARK(rope)->ArgsProduct({{0, 1}})->UseRealTime();

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

void embedding(benchmark::State& state) {
  const Tensor table = normal({kVocab, kDim});
  const Tensor token = indices(random_indices(kTokens, kVocab), {kTokens});
  const Tensor y = zeros({kTokens, kDim});
  for (auto _ : state) {
    backend().embedding(table, token, y);
  }
  count_bytes(state, 2 * y.bytes());
}
BENCHMARK(embedding)->UseRealTime();

// Reads dy, and reads and writes as many rows of the table.
void embedding_backward(benchmark::State& state) {
  const Tensor dtable = zeros({kVocab, kDim});
  const Tensor token = indices(random_indices(kTokens, kVocab), {kTokens});
  const Tensor dy = normal({kTokens, kDim});
  for (auto _ : state) {
    backend().embedding_backward(dy, token, dtable);
  }
  count_bytes(state, 3 * dy.bytes());
}
BENCHMARK(embedding_backward)->UseRealTime();

// Rows of logits
struct Loss {
  explicit Loss(std::int64_t rows)
      : logits(normal({rows, kVocab})),
        target(indices(random_indices(rows, kVocab), {rows})),
        stats(zeros({rows, 3})),
        best(zeros({rows}, DType::kI32)) {
    backend().softmax_stats(logits, target, stats, best);
  }

  Tensor logits, target, stats, best;
};

void softmax_stats(benchmark::State& state) {
  const Loss loss(state.range(0));
  for (auto _ : state) {
    backend().softmax_stats(loss.logits, loss.target, loss.stats, loss.best);
  }
  count_bytes(state, loss.logits.bytes());
}
BENCHMARK(softmax_stats)->Arg(kTokens)->UseRealTime();

// Reads both.
void divergence(benchmark::State& state) {
  const Loss loss(state.range(0)), other(state.range(0));
  const Tensor log_sums = zeros({state.range(0), 2});
  const Tensor result = zeros({state.range(0)});
  for (auto _ : state) {
    backend().divergence(loss.logits, other.logits, log_sums, result);
  }
  count_bytes(state, 2 * loss.logits.bytes());
}
BENCHMARK(divergence)->Arg(kTokens)->UseRealTime();

// Rows, dtype of the gradient
void cross_entropy_backward(benchmark::State& state) {
  const Loss loss(state.range(0));
  const Tensor dlogits = zeros(loss.logits.shape(), dtype_of_case(state, 1));
  for (auto _ : state) {
    backend().cross_entropy_backward(loss.logits, loss.target, loss.stats, 1e-3F, dlogits);
  }
  count_bytes(state, loss.logits.bytes() + dlogits.bytes());
}
BENCHMARK(cross_entropy_backward)->ArgsProduct({{kTokens}, {0, 1}})->UseRealTime();

}  // namespace
}  // namespace moesaic::bench
