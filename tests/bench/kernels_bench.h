#pragma once

#include <benchmark/benchmark.h>

#include <cstdint>
#include <vector>

#include "backend/backend.h"

namespace moesaic::bench {

// The model of configs/model/bench.cfg and a micro-batch of it.
constexpr std::int64_t kTokens = 2048, kDim = 512, kHeads = 8, kHeadDim = 64, kVocab = 8192;
constexpr std::int64_t kExperts = 16, kTopK = 2, kHidden = 512;
constexpr std::int64_t kRows = kTokens * kTopK;                   // that go to experts
constexpr std::int64_t kWeights = kExperts * 2 * kHidden * kDim;  // gate and up of a layer

Backend& backend();
Tensor normal(const Shape& shape, DType dtype = DType::kF32);
Tensor zeros(const Shape& shape, DType dtype = DType::kF32);
Tensor indices(const std::vector<std::int32_t>& values, const Shape& shape);
/// The same every time, each in [0, below).
std::vector<std::int32_t> random_indices(std::int64_t count, std::int64_t below);
/// An argument of the benchmark: 0 fp32, 1 bf16. Shown as the label.
DType dtype_of_case(benchmark::State& state, std::size_t argument = 0);

/// Multiplications and additions of a product of (m, k) and (k, n).
inline double flop_of(std::int64_t m, std::int64_t n, std::int64_t k) {
  return 2.0 * static_cast<double>(m * n * k);
}

/// Counters after the loop, as rates per second and as the fraction `of_limit` (limits.h).
/// flop: of a kernel that is bound by products. The limit is fp32's for bf16 too.
void count_flop(benchmark::State& state, double flop);
/// bytes: read and written once each, of a kernel that is bound by memory. What a cache holds is
/// faster than the limit: `of_copy` compares with copies of as many bytes.
void count_bytes(benchmark::State& state, std::size_t bytes);

}  // namespace moesaic::bench
