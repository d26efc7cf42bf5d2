// Protects the routing that measurements ask for: its loads are what their names say.
#include "routing/forced_routing.h"

#include <gtest/gtest.h>

#include <array>
#include <set>

namespace moesaic::testing {
namespace {

using routing::forced_choices;
using routing::ForcedRouting;

std::vector<std::int64_t> counts_of(const std::vector<std::int32_t>& choices,
                                    std::int64_t experts) {
  std::vector<std::int64_t> counts(static_cast<std::size_t>(experts), 0);
  for (const std::int32_t expert : choices) {
    ++counts.at(static_cast<std::size_t>(expert));
  }
  return counts;
}

// Each token's choices are different experts that exist.
void expect_distinct(const std::vector<std::int32_t>& choices, const ForcedRouting& routing) {
  const std::int64_t k = routing.top_k;
  for (auto begin = choices.begin(); begin != choices.end(); begin += k) {
    const std::set<std::int32_t> of_token(begin, begin + k);
    EXPECT_EQ(std::ssize(of_token), k) << "token " << (begin - choices.begin()) / k;
    EXPECT_GE(*of_token.begin(), 0);
    EXPECT_LT(*of_token.rbegin(), routing.experts);
  }
}

// Experts and choices; the last has none to spare.
constexpr std::array<std::array<std::int64_t, 2>, 6> kSizes = {
    {{8, 1}, {8, 2}, {7, 3}, {16, 4}, {5, 4}, {3, 3}}};

TEST(ForcedRouting, BalancedCountsAreExact) {
  for (const auto& [experts, top_k] : kSizes) {
    const ForcedRouting routing = {config::Force::kBalanced, experts, top_k, 0};
    const std::vector<std::int32_t> choices = forced_choices(routing, 0, 6 * experts);
    ASSERT_EQ(std::ssize(choices), 6 * experts * top_k);
    expect_distinct(choices, routing);
    EXPECT_EQ(counts_of(choices, experts),
              std::vector<std::int64_t>(static_cast<std::size_t>(experts), 6 * top_k));
  }
}

// The hot expert is another one in every step, where it rotates.
TEST(ForcedRouting, HalfOfTheTokensGoToTheHotExpertFirst) {
  for (const config::Force force : {config::Force::kHot, config::Force::kRotating}) {
    for (const auto& [experts, top_k] : kSizes) {
      for (std::int64_t hot = 0; hot < experts && experts > top_k; ++hot) {
        const ForcedRouting routing = {force, experts, top_k, hot};
        const std::int64_t tokens = 4 * (experts - 1);
        const std::vector<std::int32_t> choices = forced_choices(routing, 0, tokens);
        expect_distinct(choices, routing);
        std::int64_t first = 0;
        for (std::size_t i = 0; i < choices.size(); i += static_cast<std::size_t>(top_k)) {
          first += choices[i] == hot ? 1 : 0;
        }
        EXPECT_EQ(first, tokens / 2);
        EXPECT_EQ(counts_of(choices, experts)[static_cast<std::size_t>(hot)], tokens / 2);
      }
    }
  }
}

// Protects: ranks that route a share of the rows each choose as one rank does.
TEST(ForcedRouting, AShareOfTheTokensIsAPartOfTheWhole) {
  for (const config::Force force : {config::Force::kBalanced, config::Force::kHot}) {
    const ForcedRouting routing = {force, 7, 3, 2};
    const std::vector<std::int32_t> whole = forced_choices(routing, 0, 20);
    const std::vector<std::int32_t> part = forced_choices(routing, 5, 9);
    EXPECT_EQ(part, std::vector(whole.begin() + 15, whole.begin() + 42));
  }
  EXPECT_TRUE(forced_choices({config::Force::kHot, 7, 3, 2}, 4, 0).empty());
}

}  // namespace
}  // namespace moesaic::testing
