// Attention to keys and values in pages. decode: one new token of each of many sequences, bound by
// reading their pages, which no cache holds; prefill: the tokens of one prompt, bound by
// multiply-adds.
#include <numeric>

#include "kernels_bench.h"

namespace moesaic::bench {
namespace {

// Sequences that all hold `length` tokens, of which the last `rows` are new.
struct Paged {
  Paged(const AttentionShape& the_shape, std::int64_t sequences, std::int64_t length,
        std::int64_t rows, DType dtype)
      : shape(the_shape) {
    const std::int64_t pages_of_one = (length + kPageTokens - 1) / kPageTokens;
    offsets.push_back(0);
    page_offsets.push_back(0);
    for (std::int64_t s = 0; s < sequences; ++s) {
      offsets.push_back(offsets.back() + rows);
      position.push_back(length - rows);
      page_offsets.push_back(page_offsets.back() + pages_of_one);
    }
    pages.resize(static_cast<std::size_t>(page_offsets.back()));
    std::iota(pages.begin(), pages.end(), 0);
    q = normal({offsets.back(), shape.heads * shape.head_dim}, dtype);
    keys = normal({page_offsets.back(), shape.kv_heads, kPageTokens, shape.head_dim}, dtype);
    values = normal({page_offsets.back(), shape.kv_heads, kPageTokens, shape.v_dim}, dtype);
    out = zeros({offsets.back(), shape.heads, shape.v_dim}, dtype);
    lse = zeros({offsets.back(), shape.heads});
    std::vector<std::int32_t> last;
    for (std::int64_t row = 0; row < offsets.back(); ++row) {
      last.push_back(static_cast<std::int32_t>(length - rows + row % rows + 1));
    }
    visible.first = indices(std::vector<std::int32_t>(last.size(), 0), {offsets.back()});
    visible.last = indices(last, {offsets.back()});
  }

  void attend() const {
    backend().attention(shape.queries(q), {keys, values, {offsets, position, page_offsets, pages}},
                        visible, shape.scale, out, lse);
  }

  AttentionShape shape;
  std::vector<std::int64_t> offsets, position, page_offsets;
  std::vector<std::int32_t> pages;
  Tensor q, keys, values, out, lse;
  VisibleKeys visible;
};

AttentionShape shape_of(std::int64_t heads, std::int64_t kv_heads) {
  return {.heads = heads, .kv_heads = kv_heads, .head_dim = 64, .v_dim = 64, .scale = 0.125F};
}

void paged_decode(benchmark::State& state) {
  const Paged paged(shape_of(16, 4), state.range(0), state.range(1), 1, dtype_of_case(state, 2));
  for (auto _ : state) {
    paged.attend();
  }
  count_bytes(state, paged.keys.bytes() + paged.values.bytes());
}
BENCHMARK(paged_decode)->ArgsProduct({{1, 32}, {512, 8192}, {0, 1}})->UseRealTime();

// One token of a latent model (DeepSeek): all heads read the same keys, which hold the values.
void paged_latent(benchmark::State& state) {
  const AttentionShape shape{
      .heads = 16, .kv_heads = 1, .head_dim = 576, .v_dim = 512, .scale = 0.1F};
  Paged paged(shape, 1, state.range(0), 1, dtype_of_case(state, 1));
  paged.values = {};
  for (auto _ : state) {
    paged.attend();
  }
  count_bytes(state, paged.keys.bytes());
}
BENCHMARK(paged_latent)->ArgsProduct({{512, 2048, 8192}, {0, 1}})->UseRealTime();

void paged_prefill(benchmark::State& state) {
  const std::int64_t tokens = state.range(0);
  const Paged paged(shape_of(16, 4), 1, tokens, tokens, dtype_of_case(state, 1));
  for (auto _ : state) {
    paged.attend();
  }
  // Half of all pairs, two products of a multiply-add each.
  count_flop(state, 2.0 * static_cast<double>(tokens * tokens * 16 * 64));
}
BENCHMARK(paged_prefill)->ArgsProduct({{512, 2048}, {0, 1}})->UseRealTime();

}  // namespace
}  // namespace moesaic::bench
