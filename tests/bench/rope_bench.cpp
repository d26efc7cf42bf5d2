// Rotation: bound by memory.
#include "kernels_bench.h"

namespace moesaic::bench {
namespace {

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

}  // namespace
}  // namespace moesaic::bench
