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
    const std::int64_t all_rows = sequences * rows;
    const std::int64_t all_pages = sequences * pages_of_one;
    std::vector<std::int32_t> offsets, page_offsets;
    for (std::int64_t s = 0; s <= sequences; ++s) {
      offsets.push_back(static_cast<std::int32_t>(s * rows));
      page_offsets.push_back(static_cast<std::int32_t>(s * pages_of_one));
    }
    const std::vector<std::int32_t> position(static_cast<std::size_t>(sequences),
                                             static_cast<std::int32_t>(length - rows));
    std::vector<std::int32_t> pages(static_cast<std::size_t>(all_pages));
    std::iota(pages.begin(), pages.end(), 0);
    runs = {.offsets = indices(offsets, {sequences + 1}),
            .position = indices(position, {sequences}),
            .page_offsets = indices(page_offsets, {sequences + 1}),
            .pages = indices(pages, {all_pages}),
            .most_keys = length};
    q = normal({all_rows, shape.heads * shape.head_dim}, dtype);
    keys = normal({all_pages, shape.kv_heads, kPageTokens, shape.head_dim}, dtype);
    values = normal({all_pages, shape.kv_heads, kPageTokens, shape.v_dim}, dtype);
    out = zeros({all_rows, shape.heads, shape.v_dim}, dtype);
    lse = zeros({all_rows, shape.heads});
    std::vector<std::int32_t> last;
    for (std::int64_t row = 0; row < all_rows; ++row) {
      last.push_back(static_cast<std::int32_t>(length - rows + row % rows + 1));
    }
    visible.first = indices(std::vector<std::int32_t>(last.size(), 0), {all_rows});
    visible.last = indices(last, {all_rows});
  }

  void attend() const {
    backend().attention(shape.queries(q), {keys, values, runs}, visible, shape.scale, out, lse);
  }

  AttentionShape shape;
  PagedRuns runs;
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
