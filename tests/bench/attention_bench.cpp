// Attention: bound by multiply-adds.
#include <numeric>

#include "kernels_bench.h"

namespace moesaic::bench {
namespace {

AttentionShape grouped_heads(std::int64_t group) {
  return {.heads = kHeads,
          .kv_heads = kHeads / group,
          .head_dim = kHeadDim,
          .v_dim = kHeadDim,
          .scale = 0.125F};
}
// As in DeepSeek-V3: queries and keys are wider than values.
constexpr AttentionShape kLatentHeads = {
    .heads = 4, .kv_heads = 4, .head_dim = 192, .v_dim = 128, .scale = 0.07F};

// All tokens in documents of one length: that length, query heads per key/value head, dtype
struct AttentionCase {
  AttentionCase(std::int64_t length, const AttentionShape& heads, DType dtype)
      : shape(heads),
        qkv(normal({kTokens,
                    (shape.heads + shape.kv_heads) * shape.head_dim + shape.kv_heads * shape.v_dim},
                   dtype)),
        out(zeros({kTokens, shape.heads, shape.v_dim}, dtype)),
        lse(zeros({kTokens, shape.heads})) {
    std::vector<std::int32_t> first;
    for (std::int64_t t = 0; t < kTokens; ++t) {
      first.push_back(static_cast<std::int32_t>(t / length * length));
    }
    std::vector<std::int32_t> last(kTokens);
    std::iota(last.begin(), last.end(), 1);
    visible.first = indices(first, {kTokens});
    visible.last = indices(last, {kTokens});
    attend();
    // One product along head_dim and one along v_dim for each pair of a query and a key it sees.
    const std::int64_t pairs = kTokens / length * (length * (length + 1) / 2);
    flop = flop_of(pairs, shape.heads, shape.head_dim + shape.v_dim);
    // Three products along head_dim and two along v_dim.
    backward_flop = flop_of(pairs, shape.heads, 3 * shape.head_dim + 2 * shape.v_dim);
  }

  void attend() const {
    backend().attention(shape.queries(qkv), shape.keys(qkv), visible, shape.scale, out, lse);
  }

  AttentionShape shape;
  Tensor qkv, out, lse;
  VisibleKeys visible;
  double flop, backward_flop;
};

void attend(benchmark::State& state, const AttentionCase& c) {
  for (auto _ : state) {
    c.attend();
  }
  count_flop(state, c.flop);
}
void attend_backward(benchmark::State& state, const AttentionCase& c) {
  const Tensor dout = normal(c.out.shape(), c.out.dtype());
  const Tensor dqkv = zeros(c.qkv.shape(), c.qkv.dtype());
  for (auto _ : state) {
    backend().attention_backward(dout, c.shape.queries(c.qkv), c.shape.keys(c.qkv), c.visible,
                                 c.shape.scale, c.out, c.lse, c.shape.gradients(dqkv),
                                 Write::kOverwrite);
  }
  count_flop(state, c.backward_flop);
}

void attention(benchmark::State& state) {
  attend(state, {state.range(0), grouped_heads(state.range(1)), dtype_of_case(state, 2)});
}
BENCHMARK(attention)->ArgsProduct({{512, 2048}, {1, 4}, {0, 1}})->UseRealTime();

void attention_backward(benchmark::State& state) {
  attend_backward(state, {state.range(0), grouped_heads(state.range(1)), dtype_of_case(state, 2)});
}
BENCHMARK(attention_backward)->ArgsProduct({{512, 2048}, {1, 4}, {0, 1}})->UseRealTime();

void latent_attention(benchmark::State& state) {
  attend(state, {state.range(0), kLatentHeads, dtype_of_case(state, 1)});
}
BENCHMARK(latent_attention)->ArgsProduct({{512, 2048}, {0, 1}})->UseRealTime();

void latent_attention_backward(benchmark::State& state) {
  attend_backward(state, {state.range(0), kLatentHeads, dtype_of_case(state, 1)});
}
BENCHMARK(latent_attention_backward)->ArgsProduct({{512, 2048}, {0, 1}})->UseRealTime();

}  // namespace
}  // namespace moesaic::bench
