// The loss: bound by memory.
#include "kernels_bench.h"

namespace moesaic::bench {
namespace {

// Rows of logits
struct Loss {
  explicit Loss(std::int64_t rows)
      : logits(normal({rows, kVocab})),
        target(indices(random_indices(rows, kVocab), {rows})),
        stats(zeros({rows, 3})),
        best(zeros({rows}, DType::kI32)),
        weight(normal({rows})),
        spread(zeros({rows})) {
    backend().softmax_stats(logits, target, stats, best);
  }

  Tensor logits, target, stats, best, weight, spread;
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
    backend().cross_entropy_backward(loss.logits, loss.target, loss.stats, loss.weight, dlogits,
                                     loss.spread);
  }
  count_bytes(state, loss.logits.bytes() + dlogits.bytes());
}
BENCHMARK(cross_entropy_backward)->ArgsProduct({{kTokens}, {0, 1}})->UseRealTime();

}  // namespace
}  // namespace moesaic::bench
