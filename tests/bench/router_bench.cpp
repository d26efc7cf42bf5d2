// Routing: bound by memory.
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
                          .shares = zeros({2, 1, kExperts}),
                          .sums = zeros({2, 2})};
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

}  // namespace
}  // namespace moesaic::bench
