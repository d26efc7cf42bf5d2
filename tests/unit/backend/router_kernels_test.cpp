// Protects the router: choices and their order, weights, the sums of the losses, the gradient.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "reference/router.h"
#include "unit/backend/kernel_test.h"

namespace moesaic::testing {
namespace {

using reference::Role;
using reference::RouterOptions;
using reference::Score;

RouteOptions options_of(const RouterOptions& o) {
  return {.score = o.score == Score::kSoftmax ? RouterScore::kSoftmax : RouterScore::kSigmoid,
          .top_k = o.top_k,
          .candidates = o.candidates,
          .groups = o.groups,
          .top_groups = o.top_groups,
          .threshold = to_float(o.threshold),
          .temperature = to_float(o.temperature),
          .normalize = o.normalize,
          .scale = to_float(o.scale)};
}

Vector times(Vector values, double factor) {
  for (double& value : values) {
    value *= factor;
  }
  return values;
}

class RouterKernels : public KernelTest {
 protected:
  RouteTensors route(const Vector& logits, const Vector& bias, const RouterOptions& o,
                     const Vector& added = {}, const Indices& segment = {}) const {
    const std::int64_t tokens = std::ssize(logits) / o.experts;
    Indices state;
    for (std::int64_t e = 0; e < o.experts; ++e) {
      state.push_back(o.roles.empty() ? 1 : static_cast<std::int64_t>(o.roles[e]));
    }
    const std::int64_t segments =
        segment.empty() ? 1 : *std::max_element(segment.begin(), segment.end()) + 1;
    RouteTensors out{.state = upload(state, {o.experts}),
                     .bias = upload(bias, {o.experts}),
                     .added = added.empty() ? Tensor() : upload(added, {tokens, o.experts}),
                     .segment = segment.empty() ? Tensor() : upload(segment, {tokens}),
                     .logits = upload(logits, {tokens, o.experts}),
                     .scores = poisoned({tokens, o.experts}),
                     .selection = poisoned({tokens, o.experts}),
                     .choice = poisoned({tokens, o.top_k}, DType::kI32),
                     .weight = poisoned({tokens, o.top_k}),
                     .shares = poisoned({2, segments, o.experts}),
                     .sums = poisoned({2, 2})};
    backend().route(options_of(o), out);
    return out;
  }

  // Sums as floats, and behind them what the rounding left.
  void expect_sums(const Tensor& actual, const Vector& expected, const std::string& what) const {
    const Vector parts = download(actual);
    ASSERT_EQ(parts.size(), 2 * expected.size()) << what;
    const auto half = parts.begin() + std::ssize(expected);
    expect_close({parts.begin(), half}, expected, 2e-5, what);
    for (std::size_t i = 0; i < expected.size(); ++i) {
      EXPECT_LE(std::abs(half[static_cast<std::ptrdiff_t>(i)]), 6e-8 * std::abs(parts[i])) << what;
    }
  }

  // Kernel and reference on random numbers; `rerouted`: the choice whose weights and gradient are
  // compared, instead of the router's own.
  void check(std::int64_t tokens, const RouterOptions& o, const std::string& kind,
             const Indices& rerouted = {}) const {
    const Vector logits = times(random({tokens, o.experts}, "logits"), 2.0);
    const Vector bias = times(random({o.experts}, "bias"), 0.1);
    const Vector added = o.temperature == 1.0 ? Vector() : random({tokens, o.experts}, "added");
    const Indices segment =
        o.temperature == 1.0 || tokens == 0 ? Indices() : random_indices(tokens, 3, "segment");
    const Vector dweight = random({tokens, o.top_k}, "dweight");
    const Vector daux = random({3, o.experts}, "daux");
    constexpr double kDz = 0.25;
    const std::string what = fmt::format("{} tokens, {} of {} experts, {}, sigmoid {}", tokens,
                                         o.top_k, o.experts, kind, o.score == Score::kSigmoid);
    const RouteTensors actual = route(logits, bias, o, added, segment);
    const reference::Routing expected = reference::route(logits, bias, o, added, segment);
    ASSERT_EQ(download_indices(actual.choice), expected.choice) << what;
    expect_same(actual.selection, expected.selection, "selection of " + what);
    expect_close(download(actual.scores), expected.scores, 2e-5, "scores of " + what);
    expect_close(download(actual.weight), expected.weight, 2e-5, "weight of " + what);
    expect_sums(actual.shares, expected.share_sums, "shares of " + what);
    expect_sums(actual.sums, {expected.squared_lse_sum, expected.entropy_sum}, "sums of " + what);

    const Indices choice = rerouted.empty() ? expected.choice : rerouted;
    const Tensor uploaded = upload(choice, {tokens, o.top_k});
    const Tensor weight = poisoned({tokens, o.top_k});
    backend().route_weights(options_of(o), actual.scores, uploaded, weight);
    expect_close(download(weight), reference::weights_of(expected.scores, choice, o), 2e-5,
                 "weights of " + what);
    const Tensor dlogits = poisoned({tokens, o.experts});
    backend().route_backward(options_of(o), actual, uploaded, upload(dweight, {tokens, o.top_k}),
                             upload(daux, {3, o.experts}), to_float(kDz), dlogits);
    expect_close(download(dlogits),
                 reference::route_backward(dweight, expected.logits, choice, o, daux, kDz, segment),
                 3e-5, "dlogits of " + what);
  }

  void expect_same(const Tensor& tensor, const Vector& expected, const std::string& what) const {
    Vector actual = download(tensor);
    Vector finite = expected;
    for (std::size_t i = 0; i < expected.size(); ++i) {
      ASSERT_EQ(std::isinf(actual[i]), std::isinf(expected[i])) << what << " at " << i;
      actual[i] = std::isinf(actual[i]) ? 0.0 : actual[i];
      finite[i] = std::isinf(finite[i]) ? 0.0 : finite[i];
    }
    expect_close(actual, finite, 2e-5, what);
  }
};

constexpr std::array kScores = {Score::kSoftmax, Score::kSigmoid};

TEST_P(RouterKernels, MatchesForEveryScoreAndSize) {
  for (const std::int64_t tokens : kRowCounts) {
    for (const Score score : kScores) {
      for (const bool normalize : {false, true}) {
        const std::string kind = fmt::format("normalize {}", normalize);
        check(tokens, {score, 1, 1, normalize, 1.0}, kind);
        check(tokens, {score, 5, 5, normalize, 1.5}, kind);
        check(tokens, {score, 17, 2, normalize, 2.5}, kind);
        check(tokens, {score, 64, 6, normalize, 1.0}, kind);
      }
    }
  }
}

// Protects the two-layer gate: candidates by the first logits, then task weights and temperature.
TEST_P(RouterKernels, CandidatesTemperatureAndSegments) {
  for (const Score score : kScores) {
    for (const std::int64_t candidates : {0, 2, 9}) {
      check(
          33,
          {.score = score, .experts = 19, .top_k = 2, .candidates = candidates, .temperature = 0.7},
          fmt::format("{} candidates", candidates));
    }
  }
}

// Protects group-limited routing.
TEST_P(RouterKernels, Groups) {
  for (const Score score : kScores) {
    for (const std::int64_t top_groups : {1, 3}) {
      check(33,
            {.score = score,
             .experts = 32,
             .top_k = 4,
             .scale = 2.5,
             .groups = 8,
             .top_groups = top_groups},
            fmt::format("{} of 8 groups", top_groups));
    }
    check(9, {.score = score, .experts = 4, .top_k = 2, .groups = 4, .top_groups = 2},
          "groups of one");
  }
}

// Protects the choice of fewer experts than top_k.
TEST_P(RouterKernels, Threshold) {
  for (const Score score : kScores) {
    for (const double threshold : {0.3, 0.8, 1.0}) {
      check(65, {.score = score, .experts = 12, .top_k = 5, .threshold = threshold},
            fmt::format("threshold {}", threshold));
    }
  }
  const RouterOptions half{.experts = 4, .top_k = 4, .threshold = 0.5};
  const RouteTensors routed = route({9, 0, 0, 0, 1, 1, 1, 1}, Vector(4, 0.0), half);
  EXPECT_EQ(download_indices(routed.choice), (Indices{0, -1, -1, -1, 0, 1, -1, -1}));
  expect_close(download(routed.weight), {1, 0, 0, 0, 0.5, 0.5, 0, 0}, 1e-6, "weight");
}

// Protects spares (scored, never a first choice), retired experts (never anything), and the
// gradient of weights that were rerouted to a spare or to no expert.
TEST_P(RouterKernels, SparesAndRetiredExperts) {
  std::vector<Role> roles(18, Role::kRegular);
  roles[3] = Role::kRetired;
  roles[16] = roles[17] = Role::kSpare;
  for (const Score score : kScores) {
    for (const bool normalize : {false, true}) {
      const RouterOptions o{.score = score,
                            .experts = 18,
                            .top_k = 2,
                            .normalize = normalize,
                            .temperature = 0.5,
                            .roles = roles};
      check(40, o, "spares");
      Indices rerouted;
      for (std::int64_t t = 0; t < 40; ++t) {
        rerouted.push_back(t % 3 == 0 ? 16 : 5);
        rerouted.push_back(t % 5 == 0 ? -1 : 17);
      }
      check(40, o, "rerouted to spares", rerouted);
    }
  }
}

TEST_P(RouterKernels, TheLowerIndexWinsTies) {
  const Vector logits = {1, 2, 2, 2, 0, 0, 0, 0, -1, 3, -1, 3};
  const RouteTensors routed = route(logits, Vector(4, 0.0), {Score::kSoftmax, 4, 2, true, 1.0});
  EXPECT_EQ(download_indices(routed.choice), (Indices{1, 2, 0, 1, 1, 3}));
}

TEST_P(RouterKernels, TheBiasChoosesButDoesNotWeigh) {
  const RouteTensors routed =
      route({0, 0, 0, 0}, {0, -1, 5, 0}, {Score::kSigmoid, 4, 2, true, 3.0});
  EXPECT_EQ(download_indices(routed.choice), (Indices{2, 0}));
  expect_close(download(routed.weight), {1.5, 1.5}, 1e-6, "weight");
}

// Scores that all underflow must not become NaN, and far logits must not overflow.
TEST_P(RouterKernels, ExtremeLogitsStayFinite) {
  const Vector logits = {-200, -200, -200, -200, 300, -300, 0, 299};
  for (const Score score : kScores) {
    const RouterOptions options{score, 4, 2, true, 1.0};
    const RouteTensors routed = route(logits, Vector(4, 0.0), options);
    const Tensor dlogits = poisoned({2, 4});
    backend().route_backward(options_of(options), routed, routed.choice,
                             upload(Vector(4, 1.0), {2, 2}), upload(Vector{1, 2, 3, 4}, {1, 4}),
                             0.1F, dlogits);
    for (const Tensor& tensor : {routed.scores, routed.weight, routed.shares, dlogits}) {
      for (const double value : download(tensor)) {
        EXPECT_TRUE(std::isfinite(value));
      }
    }
  }
}

// Protects every number of experts: the ways in which a row is held, and what is behind its end.
TEST_P(RouterKernels, EveryWidth) {
  for (const std::int64_t experts : {31, 33, 64, 65, 128, 200, 257, 600}) {
    check(3, {.experts = experts, .top_k = 3, .candidates = experts / 2, .temperature = 0.7},
          "a width");
    check(3,
          {.score = Score::kSigmoid,
           .experts = experts / 4 * 4,
           .top_k = 3,
           .groups = 4,
           .top_groups = 2},
          "a width in groups");
  }
}

// Protects ties wherever they lie: a choice that is computed twice must be the same twice.
TEST_P(RouterKernels, TiedLogitsEverywhere) {
  for (const Score score : kScores) {
    for (const std::int64_t experts : {6, 64, 130, 600}) {
      for (const std::int64_t groups : {1, 2}) {
        const RouteTensors routed =
            route(Vector(static_cast<std::size_t>(5 * experts), 1.5),
                  Vector(static_cast<std::size_t>(experts), 0.0),
                  {.score = score, .experts = experts, .top_k = 3, .groups = groups});
        const Indices first = {0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2};
        EXPECT_EQ(download_indices(routed.choice), first) << experts << " experts";
      }
    }
  }
}

// Protects the sums over tokens: their order does not depend on who comes first.
TEST_P(RouterKernels, SumsHaveTheSameBitsEveryTime) {
  const Vector logits = random({300, 40}, "logits");
  const Indices segment = random_indices(300, 3, "segment");
  const RouterOptions options{.experts = 40, .top_k = 4};
  const RouteTensors first = route(logits, Vector(40, 0.0), options, {}, segment);
  for (int run = 0; run < 9; ++run) {
    const RouteTensors again = route(logits, Vector(40, 0.0), options, {}, segment);
    ASSERT_EQ(download(again.shares), download(first.shares)) << "run " << run;
    ASSERT_EQ(download(again.sums), download(first.sums)) << "run " << run;
  }
}

// Protects a token from its neighbours: the same row, at every place of every batch.
TEST_P(RouterKernels, ARowDependsOnItselfAlone) {
  constexpr std::int64_t kExperts = 70;
  const RouterOptions options{.score = Score::kSigmoid, .experts = kExperts, .top_k = 4};
  const Vector one = random({kExperts}, "one");
  std::vector<Vector> expected;
  for (const std::int64_t tokens : {1, 3, 17, 130}) {
    Vector logits;
    for (std::int64_t t = 0; t < tokens; ++t) {
      logits.insert(logits.end(), one.begin(), one.end());
    }
    const RouteTensors routed = route(logits, Vector(kExperts, 0.0), options);
    const Tensor dlogits = poisoned({tokens, kExperts});
    backend().route_backward(options_of(options), routed, routed.choice,
                             upload(Vector(static_cast<std::size_t>(4 * tokens), 0.5), {tokens, 4}),
                             upload(random({kExperts}, "daux"), {1, kExperts}), 0.1F, dlogits);
    std::size_t which = 0;
    for (const Tensor& tensor : {routed.scores, routed.weight, dlogits}) {
      const Vector all = download(tensor);
      const auto width = std::ssize(all) / tokens;
      for (std::int64_t t = 0; t < tokens; ++t) {
        const Vector row(all.begin() + t * width, all.begin() + (t + 1) * width);
        if (tokens == 1) {
          expected.push_back(row);
        }
        ASSERT_EQ(row, expected[which]) << "token " << t << " of " << tokens;
      }
      ++which;
    }
  }
}

// Numbers that went bad must be seen as such, and must not name an expert that does not exist.
TEST_P(RouterKernels, BadLogitsGiveBadWeightsOfRealExperts) {
  for (const Score score : kScores) {
    const RouteTensors routed =
        route(Vector(18, std::nan("")), Vector(18, 0.0), {score, 18, 2, true, 1.0});
    EXPECT_EQ(download_indices(routed.choice), (Indices{0, 1}));
    EXPECT_TRUE(std::isnan(download(routed.weight)[0]));
  }
}

INSTANTIATE_TEST_SUITE_P(Backends, RouterKernels, fp32_cases(), case_name);

}  // namespace
}  // namespace moesaic::testing
