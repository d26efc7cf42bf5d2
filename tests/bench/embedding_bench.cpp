// The embedding: bound by memory.
#include "kernels_bench.h"

namespace moesaic::bench {
namespace {

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

}  // namespace
}  // namespace moesaic::bench
