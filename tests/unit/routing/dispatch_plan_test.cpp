// Protects the dispatch plan: which choices are kept, rerouted and dropped, and in which order
// their rows lie.
#include "routing/dispatch_plan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "reference/router.h"
#include "reference/rows.h"
#include "tensor/rng.h"

namespace moesaic::routing {
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

// A micro-batch after the router, `spares` of the experts being the last ones.
struct Case {
  std::int64_t top_k = 2, experts = 4, spares = 0;
  std::int64_t slots = 0;
  config::Overflow overflow = config::Overflow::kDrop;
  Indices choice;
  Vector weight, selection;

  std::string states() const {
    return std::string(static_cast<std::size_t>(experts), 'r') +
           std::string(static_cast<std::size_t>(spares), 's');
  }
  DispatchPlan plan(int ranks = 1) const {
    const auto choices = narrowed<std::int32_t>(choice);
    const auto weights = narrowed<float>(weight);
    const auto wishes = narrowed<float>(selection);
    return plan_dispatch({top_k, choices, weights, wishes}, make_expert_pool(states(), ranks),
                         {slots, overflow});
  }
};

constexpr double kNever = -std::numeric_limits<double>::infinity();

void check(const Case& c) {
  reference::Moves moves{static_cast<reference::Overflow>(c.overflow), c.selection, {}};
  for (std::int64_t e = c.experts; e < c.experts + c.spares; ++e) {
    moves.spares.push_back(e);
  }
  const std::int64_t experts = c.experts + c.spares;
  const DispatchPlan plan = c.plan();
  const reference::Dispatch expected =
      reference::dispatch(c.choice, c.weight, c.top_k, experts, c.slots, moves);
  EXPECT_EQ(narrowed<std::int64_t>(plan.source), expected.token);
  EXPECT_EQ(narrowed<std::int64_t>(plan.position), expected.position);
  EXPECT_EQ(narrowed<std::int64_t>(plan.target), expected.target);
  EXPECT_EQ(plan.chosen, expected.chosen);
  EXPECT_EQ(plan.dropped, expected.dropped);
  EXPECT_EQ(plan.rerouted, expected.rerouted);
  ASSERT_EQ(std::ssize(plan.rows), experts);
  std::int64_t rows = 0;
  for (std::int64_t e = 0; e < experts; ++e) {
    EXPECT_EQ(plan.rows[e], expected.offsets[e + 1] - expected.offsets[e]) << "expert " << e;
    EXPECT_TRUE(c.slots == 0 || plan.rows[e] <= c.slots);
    rows += plan.rows[e] + plan.dropped[e];
  }
  EXPECT_EQ(rows, std::accumulate(plan.chosen.begin(), plan.chosen.end(), std::int64_t{0}));
  for (std::size_t i = 0; i < plan.outcome.size(); ++i) {
    const bool spare = plan.target[i] >= c.experts;
    const bool same = plan.target[i] == c.choice[i];
    const DispatchOutcome outcome =
        same ? DispatchOutcome::kKept
             : (plan.target[i] < 0 ? DispatchOutcome::kDropped
                                   : (spare ? DispatchOutcome::kSpare : DispatchOutcome::kNext));
    EXPECT_EQ(plan.outcome[i], outcome) << "choice " << i;
  }
}

// As the router does it, from random logits with a liking for the first experts. Logits of few
// distinct values, so that many weights are equal.
Case random_case(std::int64_t tokens, std::int64_t top_k, std::int64_t experts,
                 std::int64_t spares) {
  Case c{.top_k = top_k,
         .experts = experts,
         .spares = spares,
         .choice = {},
         .weight = {},
         .selection = {}};
  const std::int64_t all = experts + spares;
  const Rng rng(5, hash_name("plan"));
  Vector logits;
  for (std::int64_t i = 0; i < tokens * all; ++i) {
    logits.push_back(std::floor(rng.uniform(static_cast<std::uint64_t>(i)) * 8.0) / 4.0 -
                     static_cast<double>(i % all) / static_cast<double>(all));
  }
  reference::RouterOptions options{.experts = all, .top_k = top_k, .normalize = false};
  options.threshold = tokens % 2 == 1 ? 0.6 : 0.0;  // then some tokens have fewer choices
  options.roles.assign(static_cast<std::size_t>(all), reference::Role::kRegular);
  std::fill(options.roles.begin() + experts, options.roles.end(), reference::Role::kSpare);
  const reference::Routing routing = reference::route(logits, {}, options);
  c.choice = routing.choice;
  c.weight = routing.weight;
  c.selection = routing.selection;
  for (Vector* values : {&c.weight, &c.selection}) {  // as the planner sees them
    for (double& value : *values) {
      value = static_cast<double>(static_cast<float>(value));
    }
  }
  return c;
}

TEST(DispatchPlan, MatchesTheReferenceForEverySizeRuleAndCapacity) {
  using config::Overflow;
  for (const std::int64_t tokens : {0, 1, 3, 17, 130}) {
    for (const std::int64_t slots : {0, 1, 7, 40, 1000}) {
      for (const Overflow overflow : {Overflow::kDrop, Overflow::kNext, Overflow::kSpare}) {
        for (Case c : {random_case(tokens, 1, 1, 0), random_case(tokens, 2, 5, 1),
                       random_case(tokens, 4, 4, 9), random_case(tokens, 2, 40, 4)}) {
          c.slots = slots;
          c.overflow = overflow;
          SCOPED_TRACE(testing::Message()
                       << tokens << " tokens, " << c.experts << " experts, " << slots
                       << " slots, rule " << static_cast<int>(overflow));
          check(c);
        }
      }
    }
  }
}

TEST(DispatchPlan, AllTokensOnOneExpert) {
  Case c{.top_k = 1,
         .slots = 4,
         .choice = Indices(9, 2),
         .weight = {0.1, 0.9, 0.5, 0.5, 0.9, 0.5, 0.1, 0.2, 0.3},
         .selection = Vector(36, 0.5)};
  check(c);
  EXPECT_EQ(c.plan().dropped, (Indices{0, 0, 5, 0}));
  c.overflow = config::Overflow::kNext;
  check(c);
  // The heaviest of those that find no slot chooses first: four for expert 0, one for expert 1.
  EXPECT_EQ(c.plan().target, (std::vector<std::int32_t>{0, 2, 2, 2, 2, 0, 1, 0, 0}));
}

// Protects the order of spares: the token's liking, then the next best expert, then none.
TEST(DispatchPlan, SparesTakeOverflowAlone) {
  Case c{.top_k = 1,
         .experts = 2,
         .spares = 2,
         .slots = 1,
         .overflow = config::Overflow::kSpare,
         .choice = Indices(5, 0),
         .weight = {0.9, 0.8, 0.7, 0.6, 0.5},
         .selection = {}};
  for (int t = 0; t < 5; ++t) {  // the expert that was chosen, the other, and two spares
    c.selection.insert(c.selection.end(), {kNever, 0.1, -5.0, -4.0});
  }
  check(c);
  EXPECT_EQ(c.plan().target, (std::vector<std::int32_t>{0, 3, 2, 1, -1}));
  EXPECT_EQ(c.plan().outcome,
            (std::vector<DispatchOutcome>{DispatchOutcome::kKept, DispatchOutcome::kSpare,
                                          DispatchOutcome::kSpare, DispatchOutcome::kNext,
                                          DispatchOutcome::kDropped}));
}

// Protects: a token never has one expert twice, however its choices move.
TEST(DispatchPlan, NoTokenHasAnExpertTwice) {
  Case c = random_case(64, 4, 6, 2);
  c.slots = 40;
  c.overflow = config::Overflow::kSpare;
  const DispatchPlan plan = c.plan();
  EXPECT_TRUE(plan.has_rerouted());
  for (std::size_t t = 0; t < 64; ++t) {
    for (std::size_t i = 4 * t; i < 4 * t + 4; ++i) {
      const auto end = plan.target.begin() + static_cast<std::ptrdiff_t>(4 * t + 4);
      EXPECT_TRUE(plan.target[i] < 0 ||
                  std::find(plan.target.begin() + static_cast<std::ptrdiff_t>(i) + 1, end,
                            plan.target[i]) == end);
    }
  }
}

// Protects: where experts lie says in which order rows lie, and nothing else.
TEST(DispatchPlan, AnyRanksGiveTheSamePlan) {
  Case c = random_case(50, 2, 8, 3);
  c.slots = 9;
  c.overflow = config::Overflow::kSpare;
  const DispatchPlan one = c.plan(1);
  for (const int ranks : {2, 4, 8}) {
    const DispatchPlan many = c.plan(ranks);
    EXPECT_EQ(many.target, one.target);
    EXPECT_EQ(many.rows, one.rows);
    EXPECT_EQ(std::ssize(many.source), std::ssize(one.source));
    for (std::size_t i = 0; i < one.position.size(); ++i) {
      ASSERT_EQ(many.position[i] < 0, one.position[i] < 0);
      if (one.position[i] >= 0) {
        EXPECT_EQ(many.source[static_cast<std::size_t>(many.position[i])],
                  one.source[static_cast<std::size_t>(one.position[i])]);
      }
    }
  }
}

// Protects what the ranks of tp send when experts are whole, and those of cp, whose tokens lie in
// two chunks: each row of the plan once, in the plan's order, and no choice lost.
TEST(DispatchPlan, PartsMakeTheWhole) {
  Case c = random_case(51, 2, 3, 1);
  c.slots = 25;
  c.overflow = config::Overflow::kSpare;
  const DispatchPlan whole = c.plan(2);
  std::vector<std::int64_t> rows(4, 0);
  const std::vector<std::vector<Slice>> parts = {{{0, 20}}, {{20, 5}, {40, 11}}, {{25, 15}}, {}};
  for (const std::vector<Slice>& slices : parts) {
    std::vector<std::int64_t> tokens;
    for (const Slice slice : slices) {
      for (std::int64_t token = slice.begin; token < slice.end(); ++token) {
        tokens.push_back(token);
      }
    }
    const DispatchPlan part = part_of(whole, slices);
    EXPECT_EQ(part.chosen, whole.chosen);
    ASSERT_EQ(part.position.size(), 2 * tokens.size());
    for (std::size_t i = 0; i < part.position.size(); ++i) {
      const auto there = static_cast<std::size_t>(2 * tokens[i / 2]) + i % 2;
      EXPECT_EQ(part.position[i] < 0, whole.position[there] < 0);
      EXPECT_EQ(part.target[i], whole.target[there]);
      if (part.position[i] >= 0) {
        const auto own =
            static_cast<std::size_t>(part.source[static_cast<std::size_t>(part.position[i])]);
        EXPECT_EQ(tokens[own], whole.source[static_cast<std::size_t>(whole.position[there])]);
      }
    }
    std::int64_t row = 0;
    for (const std::int32_t expert : part.order) {
      const auto e = static_cast<std::size_t>(expert);
      rows[e] += part.rows[e];
      for (std::int64_t i = 1; i < part.rows[e]; ++i) {
        EXPECT_LT(part.source[static_cast<std::size_t>(row + i - 1)],
                  part.source[static_cast<std::size_t>(row + i)]);
      }
      row += part.rows[e];
    }
    EXPECT_EQ(row, std::ssize(part.source));
  }
  EXPECT_EQ(rows, whole.rows);
}

TEST(ExpertPool, SpreadsRegularExpertsAndSparesOverTheRanks) {
  const ExpertPool expert_pool = make_expert_pool("rrrxrrss", 2);
  EXPECT_EQ(expert_pool.count(ExpertState::kRegular), 5);
  EXPECT_EQ(expert_pool.of_rank, (std::vector<std::vector<std::int32_t>>{{0, 1, 6}, {2, 4, 5, 7}}));
  EXPECT_EQ(expert_pool.state_numbers(), (std::vector<std::int32_t>{1, 1, 1, 3, 1, 1, 2, 2}));
}

}  // namespace
}  // namespace moesaic::routing
