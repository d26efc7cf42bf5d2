// Products with packed weights in the shapes of a model of width 1024 with 32 experts of width 512.
// decode: few rows for each expert, bound by reading the weights; every call reads other weights,
// as layers do, of at least 512 MiB in all. prefill: many rows, bound by products. `of_bf16`: how
// many times as fast as grouped_matmul with bf16 weights of the same shape.
#include <algorithm>
#include <array>
#include <chrono>
#include <memory>
#include <string>

#include "kernels_bench.h"
#include "limits.h"

namespace moesaic::bench {
namespace {

struct Product {
  const char* name;
  std::int64_t groups, n, k;
};
constexpr std::array<Product, 4> kProducts = {{{"gate and up", 32, 1024, 1024},
                                               {"down", 32, 1024, 512},
                                               {"head", 1, 32000, 1024},
                                               {"query, key, value", 1, 1536, 1024}}};
constexpr std::size_t kAllBytes = std::size_t{512} << 20;

// As many sets of weights as layers that no cache holds together; bf16 tensors to compare with.
struct Weights {
  Weights(const Product& product, DType format) {
    const Tensor full = normal({product.groups, product.n, product.k});
    const PackedWeights first = backend().pack(format, full, {});
    for (std::size_t bytes = 0; bytes < kAllBytes; bytes += first.bytes()) {
      PackedWeights copy = first;
      copy.words = backend().empty(DType::kI32, first.words.shape());
      backend().convert(first.words, copy.words);
      packed.push_back(copy);
    }
    const Tensor half = backend().empty(DType::kBf16, full.shape());
    backend().convert(full, half);
    for (std::size_t bytes = 0; bytes < kAllBytes; bytes += half.bytes()) {
      plain.push_back(backend().empty(DType::kBf16, full.shape()));
      backend().convert(half, plain.back());
    }
  }

  std::vector<PackedWeights> packed;
  std::vector<Tensor> plain;
};

// The last ones asked for: a benchmark is called several times.
const Weights& weights(std::int64_t product, std::int64_t format) {
  static std::pair<std::int64_t, std::int64_t> key = {-1, -1};
  static std::unique_ptr<Weights> last;
  if (key != std::pair(product, format)) {
    last.reset();
    last = std::make_unique<Weights>(kProducts.at(static_cast<std::size_t>(product)),
                                     static_cast<DType>(format));
    key = {product, format};
  }
  return *last;
}

// Seconds of grouped_matmul, the best of some calls.
double plain_seconds(const Weights& w, const Tensor& x, const Tensor& offsets, const Tensor& y) {
  double best = 1e9;
  for (std::size_t i = 0; i < std::max<std::size_t>(w.plain.size(), 5); ++i) {
    const auto begin = std::chrono::steady_clock::now();
    backend().grouped_matmul(x, offsets, w.plain[i % w.plain.size()], y);
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
    best = std::min(best, took.count());
  }
  return best;
}

// product, format, rows of each group
void packed(benchmark::State& state) {
  const Product& product = kProducts.at(static_cast<std::size_t>(state.range(0)));
  const Weights& w = weights(state.range(0), state.range(1));
  const std::int64_t rows = state.range(2);
  std::vector<std::int32_t> begins;
  for (std::int64_t g = 0; g <= product.groups; ++g) {
    begins.push_back(static_cast<std::int32_t>(g * rows));
  }
  const Tensor offsets = indices(begins, {product.groups + 1});
  const std::int64_t all = product.groups * rows;
  const Tensor x = normal({all, product.k}, DType::kBf16);
  const Tensor y = zeros({all, product.n}, DType::kBf16);
  const double plain = plain_seconds(w, x, offsets, y);
  std::size_t layer = 0;
  for (auto _ : state) {
    backend().packed_matmul(x, offsets, w.packed[layer], y, {});
    layer = (layer + 1) % w.packed.size();
  }
  using benchmark::Counter;
  const double flop = 2.0 * static_cast<double>(all * product.n * product.k);
  const auto bytes = static_cast<double>(w.packed.front().bytes());
  state.SetLabel(std::string(name_of(w.packed.front().format)) + ", " + product.name);
  state.counters["flop"] = Counter(flop, Counter::kIsIterationInvariantRate);
  state.counters["bytes"] = Counter(bytes, Counter::kIsIterationInvariantRate);
  state.counters["of_limit"] = Counter(bytes / limits().bytes, Counter::kIsIterationInvariantRate);
  state.counters["of_bf16"] = Counter(plain, Counter::kIsIterationInvariantRate);
}
BENCHMARK(packed)
    ->Name("packed_decode")
    ->ArgsProduct({{0, 1, 2, 3}, {0, 1, 2}, {1, 2, 4, 8}})
    ->UseRealTime();
BENCHMARK(packed)
    ->Name("packed_prefill")
    ->ArgsProduct({{0, 1, 3}, {0, 1, 2}, {16, 64, 256, 512}})
    ->UseRealTime();

// format: weights of the experts' gate and up, in bytes of fp32 per second
void pack(benchmark::State& state) {
  const auto format = static_cast<DType>(state.range(0));
  const Tensor w = normal({1, 1024, 1024});
  for (auto _ : state) {
    benchmark::DoNotOptimize(backend().pack(format, w, {}));
  }
  state.SetLabel(name_of(format));
  count_bytes(state, w.bytes());
}
BENCHMARK(pack)->ArgsProduct({{0, 1, 2}})->UseRealTime();

}  // namespace
}  // namespace moesaic::bench
