// Protects how tokens are drawn: the rules one by one and in their order, the distribution, and
// that a draw follows from the seed, the document and the position alone.
#include "infer/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <vector>

namespace moesaic::infer {
namespace {

// Probabilities 0.1, 0.2, 0.4 and 0.3.
const std::vector<float> kLogits = {std::log(0.1F), std::log(0.2F), std::log(0.4F), std::log(0.3F)};

Sample choose(const Sampler& sampler, const std::vector<float>& logits, std::int64_t document,
              std::int64_t position) {
  const auto best = std::max_element(logits.begin(), logits.end());
  float sum = 0.0F;
  for (const float logit : logits) {
    sum += std::exp(logit);
  }
  return sampler.choose({static_cast<std::int32_t>(best - logits.begin()), *best, std::log(sum)},
                        logits, document, position);
}

config::GenerateJob warm(double temperature = 1.0) {
  config::GenerateJob keys;
  keys.temperature = temperature;
  return keys;
}

// Shares of each token in many draws.
std::vector<double> shares(const config::GenerateJob& keys) {
  constexpr int kDraws = 40000;
  std::vector<double> count(kLogits.size(), 0.0);
  const Sampler sampler(keys);
  for (int i = 0; i < kDraws; ++i) {
    count[static_cast<std::size_t>(choose(sampler, kLogits, i / 100, i % 100).token)] +=
        1.0 / kDraws;
  }
  return count;
}

void expect_shares(const config::GenerateJob& keys, const std::vector<double>& expected) {
  const std::vector<double> actual = shares(keys);
  for (std::size_t i = 0; i < expected.size(); ++i) {
    if (expected[i] == 0.0) {
      EXPECT_EQ(actual[i], 0.0) << "token " << i;
    } else {
      EXPECT_NEAR(actual[i], expected[i], 0.01) << "token " << i;
    }
  }
}

TEST(Sampler, GreedyTakesTheArgmaxAndTheLowerOfEqualOnes) {
  const Sampler sampler{config::GenerateJob{}};
  EXPECT_EQ(choose(sampler, kLogits, 3, 5).token, 2);
  EXPECT_NEAR(choose(sampler, kLogits, 3, 5).logprob, std::log(0.4), 1e-6);
  EXPECT_EQ(choose(sampler, std::vector<float>{1.0F, 7.0F, 7.0F}, 0, 0).token, 1);
}

TEST(Sampler, DrawsWithTheProbabilitiesOfTheTemperature) {
  expect_shares(warm(), {0.1, 0.2, 0.4, 0.3});
  expect_shares(warm(0.5), {1.0 / 30, 4.0 / 30, 16.0 / 30, 9.0 / 30});
}

TEST(Sampler, TopKKeepsTheMostProbable) {
  config::GenerateJob keys = warm();
  keys.top_k = 2;
  expect_shares(keys, {0.0, 0.0, 4.0 / 7, 3.0 / 7});
  keys.top_k = 100;
  expect_shares(keys, {0.1, 0.2, 0.4, 0.3});
}

TEST(Sampler, TopPKeepsTheSmallestSetThatReachesIt) {
  config::GenerateJob keys = warm();
  keys.top_p = 0.39;
  expect_shares(keys, {0.0, 0.0, 1.0, 0.0});
  keys.top_p = 0.41;
  expect_shares(keys, {0.0, 0.0, 4.0 / 7, 3.0 / 7});
}

// Weights that fall by many orders of magnitude, or not at all.
TEST(Sampler, TopPOfManyTokens) {
  config::GenerateJob keys = warm();
  keys.top_p = 0.0;
  EXPECT_EQ(choose(Sampler(keys), kLogits, 0, 0).token, 2);
  keys.top_p = 0.5;
  std::vector<float> steep(1000), flat(1000, 1.0F);
  for (std::size_t i = 0; i < steep.size(); ++i) {
    steep[i] = -0.01F * static_cast<float>((i * 367) % 1000);  // any order
  }
  std::set<std::int32_t> of_steep, of_flat;
  for (std::int64_t i = 0; i < 20000; ++i) {
    of_steep.insert(choose(Sampler(keys), steep, i, 0).token);
    of_flat.insert(choose(Sampler(keys), flat, i, 0).token);
  }
  // 1 - exp(-0.01 n) reaches one half of 1 - exp(-10) at n = 70.
  EXPECT_EQ(of_steep.size(), 70);
  for (const std::int32_t token : of_steep) {
    EXPECT_LT(token * 367 % 1000, 70);
  }
  EXPECT_EQ(of_flat.size(), 500);
  EXPECT_EQ(*of_flat.rbegin(), 499);
}

TEST(Sampler, MinPKeepsAShareOfTheArgmax) {
  config::GenerateJob keys = warm();
  keys.min_p = 0.45;
  expect_shares(keys, {0.0, 2.0 / 9, 4.0 / 9, 3.0 / 9});
}

// top_p counts what top_k has left: 0.75 of the three most probable is reached by two of them, of
// all tokens by three.
TEST(Sampler, RulesApplyInTheirOrder) {
  config::GenerateJob keys = warm();
  keys.top_k = 3;
  keys.top_p = 0.75;
  expect_shares(keys, {0.0, 0.0, 4.0 / 7, 3.0 / 7});
  keys.top_k = 0;
  expect_shares(keys, {0.0, 2.0 / 9, 4.0 / 9, 3.0 / 9});
}

// The log-probability is the model's own, whatever the rules leave.
TEST(Sampler, LogprobIsOfTheUnmodifiedDistribution) {
  config::GenerateJob keys = warm(0.3);
  keys.top_k = 1;
  EXPECT_NEAR(choose(Sampler(keys), kLogits, 0, 0).logprob, std::log(0.4), 1e-6);
}

TEST(Sampler, DrawsFollowFromSeedDocumentAndPlace) {
  config::GenerateJob keys = warm();
  const Sampler a(keys), same(keys);
  keys.seed = 2;
  const Sampler other(keys);
  int by_document = 0, by_position = 0, by_seed = 0;
  for (int i = 0; i < 200; ++i) {
    EXPECT_EQ(choose(a, kLogits, i, 7).token, choose(same, kLogits, i, 7).token);
    by_document += choose(a, kLogits, i, 7).token != choose(a, kLogits, i + 1, 7).token ? 1 : 0;
    by_position += choose(a, kLogits, i, 7).token != choose(a, kLogits, i, 8).token ? 1 : 0;
    by_seed += choose(a, kLogits, i, 7).token != choose(other, kLogits, i, 7).token ? 1 : 0;
  }
  // Independent draws differ in 0.7 of all cases.
  for (const int differing : {by_document, by_position, by_seed}) {
    EXPECT_GT(differing, 100);
  }
}

}  // namespace
}  // namespace moesaic::infer
