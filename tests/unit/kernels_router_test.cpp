// Protects the router: choices and their order, weights, the sums of the losses, the gradient.
#include <fmt/format.h>

#include <cmath>

#include "reference/router.h"
#include "unit/kernel_test.h"

namespace moesaic::testing {
namespace {

using reference::RouterOptions;
using reference::Score;

RouteOptions options_of(const RouterOptions& o) {
  return {.score = o.score == Score::kSoftmax ? RouterScore::kSoftmax : RouterScore::kSigmoid,
          .top_k = o.top_k,
          .normalize = o.normalize,
          .scale = to_float(o.scale)};
}

struct Routed {
  Tensor scores, choice, weight, stats;
};

class RouterKernels : public KernelTest {
 protected:
  Routed route(const Vector& logits, const Vector& bias, const RouterOptions& options) const {
    const std::int64_t tokens = std::ssize(logits) / options.experts;
    Routed out{poisoned({tokens, options.experts}), poisoned({tokens, options.top_k}, DType::kI32),
               poisoned({tokens, options.top_k}), poisoned({options.experts + 2})};
    backend().route(upload(logits, {tokens, options.experts}), upload(bias, {options.experts}),
                    options_of(options), out.scores, out.choice, out.weight, out.stats);
    return out;
  }

  void check(std::int64_t tokens, const RouterOptions& o) const {
    const Vector logits = random({tokens, o.experts}, "logits");
    const Vector bias = random({o.experts}, "bias");
    const Vector dweight = random({tokens, o.top_k}, "dweight");
    const Vector daux = random({o.experts}, "daux");
    constexpr double kDz = 0.25;
    const Routed actual = route(logits, bias, o);
    const reference::Routing expected = reference::route(logits, bias, o);
    const std::string what =
        fmt::format("{} tokens, {} of {} experts, sigmoid {}, normalize {}", tokens, o.top_k,
                    o.experts, o.score == Score::kSigmoid, o.normalize);
    ASSERT_EQ(download_indices(actual.choice), expected.choice) << what;
    expect_close(download(actual.scores), expected.scores, 2e-5, "scores of " + what);
    expect_close(download(actual.weight), expected.weight, 2e-5, "weight of " + what);
    Vector stats = expected.share_sums;
    stats.push_back(expected.squared_lse_sum);
    stats.push_back(expected.entropy_sum);
    expect_close(download(actual.stats), stats, 2e-5, "stats of " + what);

    const Tensor dlogits = poisoned({tokens, o.experts});
    backend().route_backward(upload(dweight, {tokens, o.top_k}),
                             upload(logits, {tokens, o.experts}), actual.scores, actual.choice,
                             options_of(o), upload(daux, {o.experts}), to_float(kDz), dlogits);
    expect_close(download(dlogits),
                 reference::route_backward(dweight, logits, expected.choice, o, daux, kDz), 2e-5,
                 "dlogits of " + what);
  }
};

TEST_P(RouterKernels, MatchesForEveryScoreAndSize) {
  for (const std::int64_t tokens : kRowCounts) {
    for (const Score score : {Score::kSoftmax, Score::kSigmoid}) {
      for (const bool normalize : {false, true}) {
        check(tokens, {score, 1, 1, normalize, 1.0});
        check(tokens, {score, 5, 5, normalize, 1.5});
        check(tokens, {score, 17, 2, normalize, 2.5});
        check(tokens, {score, 64, 6, normalize, 1.0});
      }
    }
  }
}

TEST_P(RouterKernels, TheLowerIndexWinsTies) {
  const Vector logits = {1, 2, 2, 2, 0, 0, 0, 0, -1, 3, -1, 3};
  const Routed routed = route(logits, Vector(4, 0.0), {Score::kSoftmax, 4, 2, true, 1.0});
  EXPECT_EQ(download_indices(routed.choice), (Indices{1, 2, 0, 1, 1, 3}));
}

TEST_P(RouterKernels, TheBiasChoosesButDoesNotWeigh) {
  const Routed routed = route({0, 0, 0, 0}, {0, -1, 5, 0}, {Score::kSigmoid, 4, 2, true, 3.0});
  EXPECT_EQ(download_indices(routed.choice), (Indices{2, 0}));
  expect_close(download(routed.weight), {1.5, 1.5}, 1e-6, "weight");
}

// Scores that all underflow must not become NaN, and far logits must not overflow.
TEST_P(RouterKernels, ExtremeLogitsStayFinite) {
  const Vector logits = {-200, -200, -200, -200, 300, -300, 0, 299};
  for (const Score score : {Score::kSoftmax, Score::kSigmoid}) {
    const RouterOptions options{score, 4, 2, true, 1.0};
    const Routed routed = route(logits, Vector(4, 0.0), options);
    const Tensor dlogits = poisoned({2, 4});
    backend().route_backward(upload(Vector(4, 1.0), {2, 2}), upload(logits, {2, 4}), routed.scores,
                             routed.choice, options_of(options), upload(Vector{1, 2, 3, 4}, {4}),
                             0.1F, dlogits);
    for (const Tensor& tensor : {routed.scores, routed.weight, routed.stats, dlogits}) {
      for (const double value : download(tensor)) {
        EXPECT_TRUE(std::isfinite(value));
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Backends, RouterKernels, fp32_cases(), case_name);

}  // namespace
}  // namespace moesaic::testing
