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

// Protects what the ranks of tp send when experts are whole: each row of the plan once, in the
// plan's order, and no choice lost.
TEST(DispatchPlan, PartsMakeTheWhole) {
  const std::vector<std::int32_t> choice = {0, 2, 2, 1, 0, 1, 2, 0, 1, 0};
  const std::vector<float> weight = {0.9F, 0.1F, 0.8F, 0.2F, 0.7F, 0.3F, 0.6F, 0.4F, 0.5F, 0.5F};
  const DispatchPlan whole = plan_dispatch(choice, weight, 2, 3, 3);
  std::vector<std::int64_t> kept(3, 0);
  for (std::int64_t begin = 0; begin < 5; begin += 2) {
    const std::int64_t count = std::min<std::int64_t>(2, 5 - begin);
    const DispatchPlan part = part_of(whole, 2, begin, count);
    EXPECT_EQ(part.chosen, whole.chosen);
    ASSERT_EQ(std::ssize(part.position), 2 * count);
    for (std::size_t i = 0; i < part.position.size(); ++i) {
      const auto there = static_cast<std::size_t>(2 * begin) + i;
      EXPECT_EQ(part.position[i] < 0, whole.position[there] < 0);
      if (part.position[i] >= 0) {
        EXPECT_EQ(part.source[static_cast<std::size_t>(part.position[i])] + begin,
                  whole.source[static_cast<std::size_t>(whole.position[there])]);
      }
    }
    std::int64_t row = 0;
    for (std::size_t e = 0; e < 3; ++e) {
      kept[e] += part.kept[e];
      for (std::int64_t i = 1; i < part.kept[e]; ++i) {
        EXPECT_LT(part.source[static_cast<std::size_t>(row + i - 1)],
                  part.source[static_cast<std::size_t>(row + i)]);
      }
      row += part.kept[e];
    }
    EXPECT_EQ(row, std::ssize(part.source));
  }
  EXPECT_EQ(kept, whole.kept);
  EXPECT_LT(whole.kept[0], whole.chosen[0]);  // one is dropped
}

}  // namespace
}  // namespace moesaic::model
