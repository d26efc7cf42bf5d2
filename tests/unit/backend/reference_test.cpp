// Protects the references that every kernel is judged by: each backward against central
// differences of its forward, and the discrete ones against small cases worked out by hand.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <initializer_list>
#include <string_view>

#include "reference/activation.h"
#include "reference/attention.h"
#include "reference/embedding.h"
#include "reference/loss.h"
#include "reference/matmul.h"
#include "reference/norm.h"
#include "reference/optimizer.h"
#include "reference/rope.h"
#include "reference/router.h"
#include "reference/rows.h"
#include "tensor/rng.h"

namespace moesaic::reference {
namespace {

Vector random(std::initializer_list<std::int64_t> dims, std::string_view stream) {
  std::int64_t count = 1;
  for (const std::int64_t dim : dims) {
    count *= dim;
  }
  const Rng rng(3, hash_name(stream));
  Vector out;
  for (std::int64_t i = 0; i < count; ++i) {
    out.push_back(rng.normal(static_cast<std::uint64_t>(i)));
  }
  return out;
}

double dot(const Vector& a, const Vector& b) {
  EXPECT_EQ(a.size(), b.size());
  double sum = 0.0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    sum += a[i] * b[i];
  }
  return sum;
}

void expect_near(const Vector& actual, const Vector& expected, double tolerance) {
  ASSERT_EQ(actual.size(), expected.size());
  for (std::size_t i = 0; i < actual.size(); ++i) {
    EXPECT_NEAR(actual[i], expected[i], tolerance) << "element " << i;
  }
}

// Central differences have an error of h^2 f''' / 6 + 1e-16 / h: about 1e-9 here.
void expect_gradient(const std::function<double(const Vector&)>& loss, const Vector& at,
                     const Vector& gradient) {
  constexpr double kStep = 1e-5;
  Vector numeric;
  for (std::size_t i = 0; i < at.size(); ++i) {
    Vector up = at;
    Vector down = at;
    up[i] += kStep;
    down[i] -= kStep;
    numeric.push_back((loss(up) - loss(down)) / (2.0 * kStep));
  }
  expect_near(gradient, numeric, 1e-7);
}

TEST(Reference, MatmulTransposes) {
  const Vector a = {1, 2, 3, 4, 5, 6};    // (2, 3)
  const Vector a_t = {1, 4, 2, 5, 3, 6};  // (3, 2)
  const Vector b = {1, 0, 2, 1, 0, 3};    // (3, 2)
  const Vector b_t = {1, 2, 0, 0, 1, 3};  // (2, 3)
  const Vector c = {5, 11, 14, 23};
  EXPECT_EQ(matmul(a, false, b, false, 2, 2, 3), c);
  EXPECT_EQ(matmul(a_t, true, b, false, 2, 2, 3), c);
  EXPECT_EQ(matmul(a, false, b_t, true, 2, 2, 3), c);
  EXPECT_EQ(matmul(a_t, true, b_t, true, 2, 2, 3), c);
}

TEST(Reference, GroupedMatmulGradients) {
  constexpr std::int64_t kN = 3;
  constexpr std::int64_t kM = 4;
  const Indices offsets = {0, 2, 2, 5};  // the middle group is empty
  const Vector x = random({5, kM}, "x");
  const Vector w = random({3, kN, kM}, "w");
  const Vector dy = random({5, kN}, "dy");
  expect_gradient([&](const Vector& v) { return dot(grouped_matmul(v, offsets, w, kN, kM), dy); },
                  x, grouped_matmul_dx(dy, offsets, w, kN, kM));
  expect_gradient([&](const Vector& v) { return dot(grouped_matmul(x, offsets, v, kN, kM), dy); },
                  w, grouped_matmul_dw(dy, x, offsets, kN, kM));
}

TEST(Reference, RmsNormGradients) {
  constexpr double kEps = 0.01;
  const Vector x = random({3, 5}, "x");
  const Vector weight = random({5}, "weight");
  const Vector dy = random({3, 5}, "dy");
  const RmsNormGradient gradient = rms_norm_backward(dy, x, weight, kEps);
  expect_gradient([&](const Vector& v) { return dot(rms_norm(v, weight, kEps).y, dy); }, x,
                  gradient.dx);
  expect_gradient([&](const Vector& v) { return dot(rms_norm(x, v, kEps).y, dy); }, weight,
                  gradient.dweight);
}

TEST(Reference, RopeTurnsPairsAndBack) {
  const Vector x = {1, 0, 0, 1, 7, 7, 7, 7};  // two heads of (a0 a1 b0 b1), the second untouched
  const Groups first{8, 0, 1, 0, 4};
  const Rotation by_position{Vector{1.0, 1.0}};
  expect_near(rope(x, first, Indices{1}, by_position),
              {std::cos(1.0), -std::sin(1.0), std::sin(1.0), std::cos(1.0), 7, 7, 7, 7}, 1e-15);
  const Vector neighbours = rope(x, first, Indices{1}, {Vector{1.0, 1.0}, true, 2.0});
  expect_near(
      neighbours,
      {2 * std::cos(1.0), 2 * std::sin(1.0), -2 * std::sin(1.0), 2 * std::cos(1.0), 7, 7, 7, 7},
      1e-15);

  const Vector random_x = random({4, 3, 6}, "x");
  const Indices position = {0, 1, 0, 900};
  const Groups two{18, 0, 2, 6, 6};
  Rotation rotation{plain_frequencies(6, 10000.0)};
  const Vector there = rope(random_x, two, position, rotation);
  rotation.inverse = true;
  expect_near(rope(there, two, position, rotation), random_x, 1e-13);
  expect_near({there.begin(), there.begin() + 18}, {random_x.begin(), random_x.begin() + 18}, 0.0);
}

TEST(Reference, RopeScoresDependOnDistanceOnly) {
  const Vector q = random({8}, "q");
  const Vector k = random({8}, "k");
  const auto score = [&](std::int64_t at_q, std::int64_t at_k) {
    const Rotation rotation{plain_frequencies(8, 100.0)};
    const Groups all{8, 0, 1, 0, 8};
    return dot(rope(q, all, Indices{at_q}, rotation), rope(k, all, Indices{at_k}, rotation));
  };
  EXPECT_NEAR(score(5, 2), score(13, 10), 1e-12);
}

TEST(Reference, AttentionOfOneVisibleKeyIsItsValue) {
  const Heads heads{2, 1, 5, 3, 0.5};
  const Vector qkv = random({4, 18}, "qkv");
  const Attention result = attention(qkv, heads, Indices{0, 1, 2, 3});
  for (std::int64_t t = 0; t < 4; ++t) {
    for (std::int64_t i = 0; i < 6; ++i) {
      EXPECT_NEAR(result.out[t * 6 + i], qkv[t * 18 + 15 + i % 3], 1e-14);
    }
  }
}

TEST(Reference, AttentionGradient) {
  const Heads heads{4, 2, 3, 2, 0.6};
  const Indices first_key = {0, 0, 2, 2, 2};
  const Vector qkv = random({5, 22}, "qkv");
  const Vector dout = random({5, 4, 2}, "dout");
  expect_gradient([&](const Vector& v) { return dot(attention(v, heads, first_key).out, dout); },
                  qkv, attention_backward(dout, qkv, heads, first_key));
}

// Rows of another number than the keys, that see odd ranges, one key, and none.
TEST(Reference, AttentionGradientOfOddRanges) {
  const Heads heads{4, 2, 3, 2, 0.6};
  const Indices first = {0, 3, 6, 2, 1}, last = {7, 4, 6, 5, 0};
  const Vector q = random({5, 12}, "q"), k = random({7, 6}, "k"), v = random({7, 4}, "v");
  const Vector dout = random({5, 4, 2}, "dout");
  const AttentionGradients d = attention_backward(dout, q, k, v, heads, first, last);
  expect_gradient(
      [&](const Vector& x) { return dot(attention(x, k, v, heads, first, last).out, dout); }, q,
      d.dq);
  expect_gradient(
      [&](const Vector& x) { return dot(attention(q, x, v, heads, first, last).out, dout); }, k,
      d.dk);
  expect_gradient(
      [&](const Vector& x) { return dot(attention(q, k, x, heads, first, last).out, dout); }, v,
      d.dv);
  const Attention result = attention(q, k, v, heads, first, last);
  EXPECT_TRUE(std::isinf(result.lse[2 * 4]) && result.lse[2 * 4] < 0.0) << "a row without keys";
  EXPECT_EQ(result.out[2 * 8], 0.0);
}

TEST(Reference, SwigluGradient) {
  const Vector gate_up = random({2, 6}, "gate_up");
  const Vector dy = random({2, 3}, "dy");
  expect_gradient([&](const Vector& v) { return dot(swiglu(v, 3), dy); }, gate_up,
                  swiglu_backward(dy, gate_up, 3));
}

TEST(Reference, RouteBreaksTiesByLowerIndexAndWeighsWithoutBias) {
  const Vector logits = {0, 0, 0, 0};
  const Routing plain = route(logits, {}, {Score::kSoftmax, 4, 2, false, 1.0});
  EXPECT_EQ(plain.choice, (Indices{0, 1}));
  const Vector bias = {0, 0, 1, 0};
  const Routing biased = route(logits, bias, {Score::kSigmoid, 4, 2, true, 3.0});
  EXPECT_EQ(biased.choice, (Indices{2, 0}));
  expect_near(biased.weight, {1.5, 1.5}, 1e-15);
  expect_near(biased.share_sums, {0.25, 0.25, 0.25, 0.25}, 1e-15);
  EXPECT_NEAR(biased.entropy_sum, std::log(4.0), 1e-15);
  EXPECT_NEAR(biased.squared_lse_sum, std::log(4.0) * std::log(4.0), 1e-15);
}

TEST(Reference, RouteGradientThroughASoftmax) {
  const RouterOptions options{Score::kSoftmax, 2, 1, false, 1.0};
  const double p = 1.0 / (1.0 + std::exp(-1.0));
  expect_near(route_backward(Vector{3.0}, Vector{1, 0}, Indices{0}, options, Vector{0, 0}, 0.0),
              {3.0 * p * (1.0 - p), -3.0 * p * (1.0 - p)}, 1e-9);
}

TEST(Reference, DispatchKeepsTheHeaviestThenTheEarliest) {
  const Indices choice = {0, 2, 0, 2, 2, 0, 0, 2};  // (4, 2)
  const Vector weight = {0.5, 0.1, 0.7, 0.3, 0.9, 0.5, 0.5, 0.1};
  const Dispatch all = dispatch(choice, weight, 2, 3, 0);
  EXPECT_EQ(all.offsets, (Indices{0, 4, 4, 8}));
  EXPECT_EQ(all.token, (Indices{0, 1, 2, 3, 0, 1, 2, 3}));
  EXPECT_EQ(all.position, (Indices{0, 4, 1, 5, 6, 2, 3, 7}));

  const Dispatch capped = dispatch(choice, weight, 2, 3, 2);
  EXPECT_EQ(capped.chosen, (Indices{4, 0, 4}));
  EXPECT_EQ(capped.dropped, (Indices{2, 0, 2}));
  EXPECT_EQ(capped.token, (Indices{0, 1, 1, 2}));
  EXPECT_EQ(capped.position, (Indices{0, -1, 1, 2, 3, -1, -1, -1}));
}

TEST(Reference, CombineGradients) {
  const Indices position = {2, -1, 0, 1};
  const Vector rows = random({3, 4}, "rows");
  const Vector weight = random({4}, "weight");
  const Vector dy = random({2, 4}, "dy");
  const CombineGradient gradient = combine_rows_backward(dy, rows, position, weight, 2, 4);
  expect_gradient([&](const Vector& v) { return dot(combine_rows(v, position, weight, 2, 4), dy); },
                  rows, gradient.drows);
  expect_gradient([&](const Vector& v) { return dot(combine_rows(rows, position, v, 2, 4), dy); },
                  weight, gradient.dweight);
}

TEST(Reference, CrossEntropyGradient) {
  const Vector logits = random({3, 7}, "logits");
  const Indices target = {6, -1, 0};
  const Vector weight = {0.25, 1.0, -0.5};
  const auto loss = [&](const Vector& v) {
    double sum = 0.0;
    const Vector logprob = target_log_probs(v, target, 7);
    for (std::size_t r = 0; r < weight.size(); ++r) {
      sum -= weight[r] * logprob[r];
    }
    return sum;
  };
  EXPECT_EQ(target_log_probs(logits, target, 7)[1], 0.0);
  expect_gradient(loss, logits, cross_entropy_backward(logits, target, 7, weight));
}

TEST(Reference, EmbeddingGradientSumsRepeatedTokens) {
  EXPECT_EQ(embedding_backward(Vector{1, 2, 3, 4, 5, 6}, Indices{2, 0, 2}, 3, 2),
            (Vector{3, 4, 0, 0, 6, 8}));
}

TEST(Reference, AdamWFirstStepIsTheSignOfTheGradient) {
  const AdamWOptions options{0.1, 0.9, 0.95, 1e-12, 0.5, 2.0};
  const AdamWState before{{1.0, -2.0}, {0.0, 0.0}, {0.0, 0.0}};
  const AdamWState after = adamw(before, Vector{0.3, -4.0}, options, 1);
  expect_near(after.value, {1.0 - 0.1 - 0.05, -2.0 + 0.1 + 0.1}, 1e-9);
  expect_near(after.exp_avg, {0.06, -0.8}, 1e-14);
  expect_near(after.exp_avg_sq, {0.018, 3.2}, 1e-14);
}

}  // namespace
}  // namespace moesaic::reference
