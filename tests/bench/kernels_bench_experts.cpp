// Routing, moving rows to experts and back, and the optimizer: bound by memory.
#include "kernels_bench.h"

namespace moesaic::bench {
namespace {

constexpr RouteOptions kOptions = {.top_k = kTopK};

struct Routed {
  Routed() { route(); }

  void route() const { backend().route(kOptions, tensors); }

  RouteTensors tensors = {.state = indices(std::vector<std::int32_t>(kExperts, 1), {kExperts}),
                          .bias = zeros({kExperts}),
                          .added = {},
                          .segment = {},
                          .logits = normal({kTokens, kExperts}),
                          .scores = zeros({kTokens, kExperts}),
                          .selection = zeros({kTokens, kExperts}),
                          .choice = zeros({kTokens, kTopK}, DType::kI32),
                          .weight = zeros({kTokens, kTopK}),
                          .shares = zeros({1, kExperts}),
                          .sums = zeros({2})};
};

void route(benchmark::State& state) {
  const Routed routed;
  const RouteTensors& t = routed.tensors;
  for (auto _ : state) {
    routed.route();
  }
  count_bytes(state, 2 * t.logits.bytes() + t.scores.bytes() + t.selection.bytes() +
                         t.choice.bytes() + t.weight.bytes());
}
BENCHMARK(route)->UseRealTime();

void route_backward(benchmark::State& state) {
  const Routed routed;
  const RouteTensors& t = routed.tensors;
  const Tensor dweight = normal({kTokens, kTopK});
  const Tensor daux = normal({1, kExperts});
  const Tensor dlogits = zeros(t.logits.shape());
  for (auto _ : state) {
    backend().route_backward(kOptions, t, t.choice, dweight, daux, 1e-3F, dlogits);
  }
  count_bytes(state, dweight.bytes() + t.logits.bytes() + t.scores.bytes() + t.choice.bytes() +
                         dlogits.bytes());
}
BENCHMARK(route_backward)->UseRealTime();

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

constexpr std::int64_t kWeights = kExperts * 2 * kHidden * kDim;  // gate and up of a layer

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
  for (auto _ : state) {
    backend().adamw(step, grad, value, exp_avg, exp_avg_sq, copy);
  }
  // Reads four arrays and writes three of them.
  count_bytes(state, 7 * grad.bytes() + (with_copy ? copy.bytes() : 0));
}
BENCHMARK(adamw)->ArgsProduct({{0, 1}})->UseRealTime();

void sum_of_squares(benchmark::State& state) {
  const Tensor x = normal({kWeights});
  for (auto _ : state) {
    benchmark::DoNotOptimize(backend().sum_of_squares(x));
  }
  count_bytes(state, x.bytes());
}
BENCHMARK(sum_of_squares)->UseRealTime();

void add(benchmark::State& state) {
  const Tensor x = normal({kTokens, kDim});
  const Tensor sum = zeros(x.shape());
  for (auto _ : state) {
    backend().add(x, sum);
  }
  count_bytes(state, 3 * x.bytes());
}
BENCHMARK(add)->UseRealTime();

// dtype of the result, from the other one
void convert(benchmark::State& state) {
  const DType to = dtype_of_case(state);
  const Tensor x = normal({kWeights}, to == DType::kF32 ? DType::kBf16 : DType::kF32);
  const Tensor y = zeros(x.shape(), to);
  for (auto _ : state) {
    backend().convert(x, y);
  }
  count_bytes(state, x.bytes() + y.bytes());
}
BENCHMARK(convert)->ArgsProduct({{0, 1}})->UseRealTime();

}  // namespace
}  // namespace moesaic::bench
