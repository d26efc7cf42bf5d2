// Protects the dispatch plan: which choices are kept, and in which order their rows lie.
#include "model/dispatch_plan.h"

#include <gtest/gtest.h>

#include <cmath>

#include "reference/dispatch.h"
#include "tensor/rng.h"

namespace moesaic::model {
namespace {

using reference::Indices;
using reference::Vector;

template <class T>
std::vector<T> narrowed(const auto& values) {
  std::vector<T> out;
  out.reserve(values.size());
  for (const auto value : values) {
    out.push_back(static_cast<T>(value));
  }
  return out;
}

void check(const Indices& choice, const Vector& weight, std::int64_t top_k, std::int64_t experts,
           std::int64_t capacity) {
  const DispatchPlan plan = plan_dispatch(narrowed<std::int32_t>(choice), narrowed<float>(weight),
                                          top_k, experts, capacity);
  const reference::Dispatch expected =
      reference::dispatch(choice, weight, top_k, experts, capacity);
  EXPECT_EQ(narrowed<std::int64_t>(plan.source), expected.token);
  EXPECT_EQ(narrowed<std::int64_t>(plan.position), expected.position);
  EXPECT_EQ(plan.chosen, expected.chosen);
  ASSERT_EQ(std::ssize(plan.kept), experts);
  for (std::int64_t e = 0; e < experts; ++e) {
    EXPECT_EQ(plan.kept[e], expected.offsets[e + 1] - expected.offsets[e]) << "expert " << e;
  }
}

// Token t chooses top_k neighbouring experts from a random one on. Weights of few distinct values,
// so that many are equal.
void check_random(std::int64_t tokens, std::int64_t top_k, std::int64_t experts,
                  std::int64_t capacity) {
  const Rng rng(5, hash_name("plan"));
  Indices choice;
  Vector weight;
  for (std::int64_t t = 0; t < tokens; ++t) {
    const double first = rng.uniform(static_cast<std::uint64_t>(t)) * static_cast<double>(experts);
    for (std::int64_t k = 0; k < top_k; ++k) {
      choice.push_back((static_cast<std::int64_t>(first) + k) % experts);
      const auto place = static_cast<std::uint64_t>(tokens + t * top_k + k);
      weight.push_back(std::floor(rng.uniform(place) * 8.0) / 8.0);
    }
  }
  check(choice, weight, top_k, experts, capacity);
}

TEST(DispatchPlan, MatchesTheReferenceForEverySizeAndCapacity) {
  for (const std::int64_t tokens : {0, 1, 3, 17, 130}) {
    for (const std::int64_t capacity : {0, 1, 7, 40, 1000}) {
      check_random(tokens, 1, 1, capacity);
      check_random(tokens, 2, 5, capacity);
      check_random(tokens, 4, 4, capacity);
      check_random(tokens, 2, 64, capacity);
    }
  }
}

TEST(DispatchPlan, AllTokensOnOneExpert) {
  check(Indices(9, 2), {0.1, 0.9, 0.5, 0.5, 0.9, 0.5, 0.1, 0.2, 0.3}, 1, 4, 4);
}

}  // namespace
}  // namespace moesaic::model
