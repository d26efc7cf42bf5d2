// Moving rows to experts and back: bound by memory.
#include "kernels_bench.h"

namespace moesaic::bench {
namespace {

// The places of the tokens' rows when sorted by expert, as a stride that meets every row once.
std::vector<std::int32_t> scattered_places() {
  std::vector<std::int32_t> places;
  for (std::int64_t i = 0; i < kRows; ++i) {
    places.push_back(static_cast<std::int32_t>(i * 1237 % kRows));
  }
  return places;
}

// dtype
void gather_rows(benchmark::State& state) {
  const DType dtype = dtype_of_case(state);
  const Tensor x = normal({kTokens, kDim}, dtype);
  std::vector<std::int32_t> tokens = scattered_places();
  for (std::int32_t& place : tokens) {
    place /= static_cast<std::int32_t>(kTopK);
  }
  const Tensor index = indices(tokens, {kRows});
  const Tensor y = zeros({kRows, kDim}, dtype);
  for (auto _ : state) {
    backend().gather_rows(x, index, y);
  }
  count_bytes(state, 2 * y.bytes());
}
BENCHMARK(gather_rows)->ArgsProduct({{0, 1}})->UseRealTime();

struct Combined {
  explicit Combined(DType dtype) : rows(normal({kRows, kDim}, dtype)) {}

  Tensor rows, position = indices(scattered_places(), {kTokens, kTopK});
  Tensor weight = normal({kTokens, kTopK}), y = normal({kTokens, kDim});
};

// dtype of the rows
void combine_rows(benchmark::State& state) {
  const Combined c(dtype_of_case(state));
  for (auto _ : state) {
    backend().combine_rows(c.rows, c.position, c.weight, c.y);
  }
  count_bytes(state, c.rows.bytes() + c.y.bytes());
}
BENCHMARK(combine_rows)->ArgsProduct({{0, 1}})->UseRealTime();

void combine_rows_backward(benchmark::State& state) {
  const DType dtype = dtype_of_case(state);
  const Combined c(dtype);
  const Tensor drows = zeros(c.rows.shape(), dtype);
  const Tensor dweight = zeros(c.weight.shape());
  for (auto _ : state) {
    backend().combine_rows_backward(c.y, c.rows, c.position, c.weight, drows, dweight);
  }
  count_bytes(state, c.y.bytes() + c.rows.bytes() + drows.bytes());
}
BENCHMARK(combine_rows_backward)->ArgsProduct({{0, 1}})->UseRealTime();

}  // namespace
}  // namespace moesaic::bench
