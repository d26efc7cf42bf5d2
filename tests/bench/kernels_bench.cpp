// Speed of every kernel in the sizes of configs/model/bench.cfg, on one thread, or OMP_NUM_THREADS
// of them: "flop" or "bytes" per second, and `of_limit`, the fraction of what the machine does at
// most, measured in the same process. Compare two builds as a ratio on one machine:
// kernels_bench --benchmark_filter=matmul --benchmark_repetitions=5
#include "kernels_bench.h"

#include <fmt/format.h>

#include <map>
#include <memory>
#include <span>
#include <string>

#include "limits.h"
#include "tensor/rng.h"

namespace moesaic::bench {

Backend& backend() {
  static const std::unique_ptr<Backend> instance = make_cpu_backend(threads());
  return *instance;
}

Tensor normal(const Shape& shape, DType dtype) {
  std::vector<float> values(static_cast<std::size_t>(shape.numel()));
  const Rng rng(1, hash_name(shape.text()));
  constexpr std::size_t kDrawn = 1 << 16;  // then from the start again: drawing takes long
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i] = i < kDrawn ? static_cast<float>(rng.normal(i)) : values[i - kDrawn];
  }
  const Tensor full = backend().empty(DType::kF32, shape);
  backend().upload(std::as_bytes(std::span(values)), full);
  Tensor tensor = backend().empty(dtype, shape);
  backend().convert(full, tensor);
  return tensor;
}

Tensor zeros(const Shape& shape, DType dtype) {
  Tensor tensor = backend().empty(dtype, shape);
  backend().zero(tensor);
  return tensor;
}

Tensor indices(const std::vector<std::int32_t>& values, const Shape& shape) {
  Tensor tensor = backend().empty(DType::kI32, shape);
  backend().upload(std::as_bytes(std::span(values)), tensor);
  return tensor;
}

std::vector<std::int32_t> random_indices(std::int64_t count, std::int64_t below) {
  const Rng rng(1, hash_name("indices"));
  std::vector<std::int32_t> values;
  for (std::int64_t i = 0; i < count; ++i) {
    const double uniform = rng.uniform(static_cast<std::uint64_t>(i));
    values.push_back(static_cast<std::int32_t>(uniform * static_cast<double>(below)));
  }
  return values;
}

DType dtype_of_case(benchmark::State& state, std::size_t argument) {
  const DType dtype = state.range(argument) == 0 ? DType::kF32 : DType::kBf16;
  state.SetLabel(name_of(dtype));
  return dtype;
}

void count_flop(benchmark::State& state, double flop) {
  using benchmark::Counter;
  state.counters["flop"] = Counter(flop, Counter::kIsIterationInvariantRate);
  state.counters["of_limit"] = Counter(flop / limits().flop, Counter::kIsIterationInvariantRate);
}

void count_bytes(benchmark::State& state, std::size_t bytes) {
  using benchmark::Counter;
  static std::map<std::size_t, double> copies;  // by size
  if (!copies.contains(bytes)) {
    copies[bytes] = copy_rate(bytes);
  }
  const auto moved = static_cast<double>(bytes);
  state.counters["bytes"] = Counter(moved, Counter::kIsIterationInvariantRate, Counter::kIs1024);
  state.counters["of_limit"] = Counter(moved / limits().bytes, Counter::kIsIterationInvariantRate);
  state.counters["of_copy"] = Counter(moved / copies[bytes], Counter::kIsIterationInvariantRate);
}

}  // namespace moesaic::bench

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) {
    return 64;
  }
  const moesaic::bench::Limits& limits = moesaic::bench::limits();
  benchmark::AddCustomContext("kernels", std::string(moesaic::bench::backend().name()));
  benchmark::AddCustomContext("threads", std::to_string(moesaic::bench::threads()));
  benchmark::AddCustomContext("limit of flop/s", fmt::format("{:.1f} G", limits.flop / 1e9));
  benchmark::AddCustomContext("limit of bytes/s", fmt::format("{:.1f} G", limits.bytes / 1e9));
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
