// Speed of the kernels that a step spends its time in, on one thread, or OMP_NUM_THREADS of them;
// "flop" and "bytes" are rates per second. Compare two builds as a ratio on one machine:
// kernels_bench --benchmark_filter=matmul --benchmark_repetitions=5
#include <benchmark/benchmark.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "tensor/rng.h"

namespace moesaic {
namespace {

Backend& backend() {
  static const std::unique_ptr<Backend> instance = [] {
    const char* const threads = std::getenv("OMP_NUM_THREADS");
    return make_cpu_backend(threads == nullptr ? 1 : std::atoi(threads));
  }();
  return *instance;
}

Tensor normal(const Shape& shape, DType dtype = DType::kF32) {
  std::vector<float> values(static_cast<std::size_t>(shape.numel()));
  const Rng rng(1, hash_name(shape.text()));
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i] = static_cast<float>(rng.normal(i));
  }
  const Tensor full = backend().empty(DType::kF32, shape);
  backend().upload(std::as_bytes(std::span(values)), full);
  Tensor tensor = backend().empty(dtype, shape);
  backend().convert(full, tensor);
  return tensor;
}

// The dtype is the benchmark's last argument: 0 fp32, 1 bf16.
DType dtype_of_case(benchmark::State& state, std::size_t argument) {
  const DType dtype = state.range(argument) == 0 ? DType::kF32 : DType::kBf16;
  state.SetLabel(name_of(dtype) + std::string(" ") + std::string(backend().name()));
  return dtype;
}

void set_flop(benchmark::State& state, double flop) {
  state.counters["flop"] = benchmark::Counter(flop, benchmark::Counter::kIsIterationInvariantRate);
}

void set_bytes(benchmark::State& state, std::size_t bytes) {
  state.counters["bytes"] =
      benchmark::Counter(static_cast<double>(bytes), benchmark::Counter::kIsIterationInvariantRate,
                         benchmark::Counter::kIs1024);
}

// y (T, N) = x (T, D) w^T: tokens, D = N, dtype
void matmul(benchmark::State& state) {
  const std::int64_t tokens = state.range(0);
  const std::int64_t dim = state.range(1);
  const DType dtype = dtype_of_case(state, 2);
  const Tensor x = normal({tokens, dim}, dtype);
  const Tensor w = normal({dim, dim}, dtype);
  const Tensor y = backend().empty(dtype, {tokens, dim});
  for (auto _ : state) {
    backend().matmul(x, Transpose::kNo, w, Transpose::kYes, y, Write::kOverwrite);
  }
  set_flop(state, 2.0 * static_cast<double>(tokens * dim * dim));
}
BENCHMARK(matmul)->ArgsProduct({{64, 2048}, {256, 1024}, {0, 1}})->UseRealTime();

// Rows of 16 experts, as unequal as i + 1 for expert i: D = F, dtype
void grouped_matmul(benchmark::State& state) {
  constexpr std::int64_t kExperts = 16;
  const std::int64_t dim = state.range(0);
  const DType dtype = dtype_of_case(state, 1);
  std::vector<std::int64_t> offsets = {0};
  for (std::int64_t expert = 0; expert < kExperts; ++expert) {
    offsets.push_back(offsets.back() + 16 * (expert + 1));
  }
  const std::int64_t rows = offsets.back();
  const Tensor x = normal({rows, dim}, dtype);
  const Tensor w = normal({kExperts, dim, dim}, dtype);
  const Tensor y = backend().empty(dtype, {rows, dim});
  for (auto _ : state) {
    backend().grouped_matmul(x, offsets, w, y);
  }
  set_flop(state, 2.0 * static_cast<double>(rows * dim * dim));
}
BENCHMARK(grouped_matmul)->ArgsProduct({{256, 1024}, {0, 1}})->UseRealTime();

// One sequence, 8 query heads and 2 key/value heads of 64: tokens, dtype
struct AttentionCase {
  static constexpr AttentionShape kShape = {
      .heads = 8, .kv_heads = 2, .head_dim = 64, .scale = 0.125F};

  AttentionCase(std::int64_t tokens, DType dtype)
      : qkv(normal({tokens, kShape.heads + 2 * kShape.kv_heads, kShape.head_dim}, dtype)),
        first_key(backend().empty(DType::kI32, {tokens})),
        out(backend().empty(dtype, {tokens, kShape.heads, kShape.head_dim})),
        lse(backend().empty(DType::kF32, {tokens, kShape.heads})) {
    backend().zero(first_key);
    backend().attention(qkv, kShape, first_key, out, lse);
  }

  // Two products over the causal half of the scores.
  double flop() const {
    const auto tokens = static_cast<double>(qkv.dim(0));
    return 2.0 * tokens * tokens * static_cast<double>(kShape.heads * kShape.head_dim);
  }

  Tensor qkv, first_key, out, lse;
};

void attention(benchmark::State& state) {
  const AttentionCase c(state.range(0), dtype_of_case(state, 1));
  for (auto _ : state) {
    backend().attention(c.qkv, AttentionCase::kShape, c.first_key, c.out, c.lse);
  }
  set_flop(state, c.flop());
}
BENCHMARK(attention)->ArgsProduct({{256, 1024}, {0, 1}})->UseRealTime();

void attention_backward(benchmark::State& state) {
  const DType dtype = dtype_of_case(state, 1);
  const AttentionCase c(state.range(0), dtype);
  const Tensor dout = normal(c.out.shape(), dtype);
  const Tensor dqkv = backend().empty(dtype, c.qkv.shape());
  for (auto _ : state) {
    backend().attention_backward(dout, c.qkv, c.out, c.lse, AttentionCase::kShape, c.first_key,
                                 dqkv);
  }
  set_flop(state, 2.5 * c.flop());  // five products instead of two
}
BENCHMARK(attention_backward)->ArgsProduct({{256, 1024}, {0, 1}})->UseRealTime();

// rows, F, dtype
void swiglu(benchmark::State& state) {
  const DType dtype = dtype_of_case(state, 2);
  const Tensor gate_up = normal({state.range(0), 2 * state.range(1)}, dtype);
  const Tensor y = backend().empty(dtype, {state.range(0), state.range(1)});
  for (auto _ : state) {
    backend().swiglu(gate_up, y);
  }
  set_bytes(state, gate_up.bytes() + y.bytes());
}
BENCHMARK(swiglu)->ArgsProduct({{2048}, {1024}, {0, 1}})->UseRealTime();

// tokens, D, dtype of y
void rms_norm(benchmark::State& state) {
  const Shape shape = {state.range(0), state.range(1)};
  const Tensor x = normal(shape);
  const Tensor weight = normal({state.range(1)});
  const Tensor y = backend().empty(dtype_of_case(state, 2), shape);
  const Tensor rstd = backend().empty(DType::kF32, {state.range(0)});
  for (auto _ : state) {
    backend().rms_norm(x, weight, 1e-5F, y, rstd);
  }
  set_bytes(state, x.bytes() + y.bytes());
}
BENCHMARK(rms_norm)->ArgsProduct({{2048}, {1024}, {0, 1}})->UseRealTime();

// elements, dtype of the copy (none for fp32)
void adamw(benchmark::State& state) {
  const Shape shape = {state.range(0)};
  const bool with_copy = dtype_of_case(state, 1) == DType::kBf16;
  const Tensor grad = normal(shape);
  const Tensor value = normal(shape);
  const Tensor exp_avg = normal(shape);
  const Tensor exp_avg_sq = backend().empty(DType::kF32, shape);
  backend().zero(exp_avg_sq);
  const Tensor copy = with_copy ? backend().empty(DType::kBf16, shape) : Tensor();
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
  set_bytes(state, 7 * grad.bytes() + (with_copy ? copy.bytes() : 0));
}
BENCHMARK(adamw)->ArgsProduct({{1 << 22}, {0, 1}})->UseRealTime();

}  // namespace
}  // namespace moesaic

BENCHMARK_MAIN();
