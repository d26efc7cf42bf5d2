#include "limits.h"

#include <omp.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "backend/cpu/instruction_set.h"

namespace moesaic::bench {
namespace {

using F8 = float __attribute__((vector_size(32)));
using F16 = float __attribute__((vector_size(64)));

constexpr std::int64_t kRounds = 500'000;  // of one FMA in each chain: 2 to 4 ms
constexpr int kWideChains = 16;            // two FMA units with a latency of four or five
constexpr int kNarrowChains = 12;          // all that 16 registers leave room for

// Compiled with -ffp-contract=fast: a product and a sum are one FMA. The values tend to 1; the
// chains begin apart, so that none is another one's copy.
template <class Vector, int kChains>
[[gnu::always_inline]] inline float run_chains(float factor, float term) {
  const Vector by = factor - Vector{};
  const Vector plus = term - Vector{};
  Vector sums[kChains];
  for (int i = 0; i < kChains; ++i) {
    sums[i] = plus * static_cast<float>(i);
  }
  for (std::int64_t i = 0; i < kRounds; ++i) {
    for (Vector& sum : sums) {
      sum = sum * by + plus;
    }
  }
  float total = 0.0F;
  for (const Vector& sum : sums) {
    total += sum[0];
  }
  return total;
}

[[gnu::target("avx512f")]] float wide_chains(float factor, float term) {
  return run_chains<F16, kWideChains>(factor, term);
}
[[gnu::target("avx2,fma")]] float narrow_chains(float factor, float term) {
  return run_chains<F8, kNarrowChains>(factor, term);
}

// 16 lanes in each of four sums.
float sum_of(const float* x, std::size_t n) {
  F16 sums[4] = {};
  for (std::size_t i = 0; i + 64 <= n; i += 64) {
    for (std::size_t j = 0; j < 4; ++j) {
      F16 v;
      std::memcpy(&v, x + i + 16 * j, sizeof v);
      sums[j] += v;
    }
  }
  const F16 all = sums[0] + sums[1] + sums[2] + sums[3];
  return all[0] + all[15];
}

// Results go here, so that no loop is dropped.
volatile float sink;

// The least seconds that all threads together need for work(thread).
template <class Work>
double best_seconds(int times, const Work& work) {
  double best = 1e9;
  for (int i = 0; i < times; ++i) {
    const auto begin = std::chrono::steady_clock::now();
#pragma omp parallel for num_threads(threads()) schedule(static, 1)
    for (int thread = 0; thread < threads(); ++thread) {
      work(thread);
    }
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
    best = std::min(best, took.count());
  }
  return best;
}

double flop_rate() {
  const bool wide = cpu::avx512_is_usable();
  const double lanes = wide ? 16.0 * kWideChains : 8.0 * kNarrowChains;
  const volatile float factor = 0.5F;  // not known to the compiler
  const double seconds = best_seconds(
      200, [&](int) { sink = (wide ? wide_chains : narrow_chains)(factor, 1.0F - factor); });
  return 2.0 * lanes * static_cast<double>(kRounds) * threads() / seconds;
}

// Each thread works in its own share; the better of summing and of copying.
double byte_rate() {
  constexpr std::size_t kFloats = std::size_t{1} << 28;  // 1 GiB
  const auto memory = std::make_unique_for_overwrite<float[]>(kFloats);
  const std::size_t share = kFloats / static_cast<std::size_t>(threads()) / 2 * 2;
  const auto begin_of = [&](int thread) {
    return memory.get() + static_cast<std::size_t>(thread) * share;
  };
  best_seconds(1, [&](int thread) { std::fill_n(begin_of(thread), share, 1.0F); });
  const double sum = best_seconds(5, [&](int thread) { sink = sum_of(begin_of(thread), share); });
  const double copy = best_seconds(5, [&](int thread) {
    float* const from = begin_of(thread);
    std::memcpy(from + share / 2, from, share / 2 * sizeof(float));
  });
  const std::size_t bytes = share * static_cast<std::size_t>(threads()) * sizeof(float);
  return static_cast<double>(bytes) / std::min(sum, copy);
}

}  // namespace

int threads() {
  const char* const set = std::getenv("OMP_NUM_THREADS");
  return set == nullptr ? 1 : std::max(1, std::atoi(set));
}

const Limits& limits() {
  static const Limits measured = {.flop = flop_rate(), .bytes = byte_rate()};
  return measured;
}

double copy_rate(std::size_t bytes) {
  const std::size_t half =
      std::max<std::size_t>(bytes / 2 / static_cast<std::size_t>(threads()), 64);
  std::vector<std::vector<std::byte>> from(static_cast<std::size_t>(threads()));
  std::vector<std::vector<std::byte>> to(from.size());
  best_seconds(1, [&](int thread) {
    from[static_cast<std::size_t>(thread)].resize(half);
    to[static_cast<std::size_t>(thread)].resize(half);
  });
  // Several copies at once, so that the start of the threads hardly counts.
  const std::size_t times = std::max<std::size_t>(1, (std::size_t{64} << 20) / half);
  const double seconds = best_seconds(3, [&](int thread) {
    const auto i = static_cast<std::size_t>(thread);
    for (std::size_t n = 0; n < times; ++n) {
      std::memcpy(to[i].data(), from[i].data(), half);
    }
  });
  return 2.0 * static_cast<double>(half * times * from.size()) / seconds;
}

}  // namespace moesaic::bench
