#include "reference/attention.h"

#include <algorithm>
#include <cmath>

namespace moesaic::reference {
namespace {

// Where the vectors of token t begin in qkv.
struct Layout {
  const Heads& heads;

  std::int64_t row(std::int64_t t) const {
    return t * ((heads.query + heads.key_value) * heads.head_dim + heads.key_value * heads.v_dim);
  }
  std::int64_t shared(std::int64_t h) const { return h / (heads.query / heads.key_value); }
  std::int64_t q(std::int64_t t, std::int64_t h) const { return row(t) + h * heads.head_dim; }
  std::int64_t k(std::int64_t t, std::int64_t h) const {
    return row(t) + (heads.query + shared(h)) * heads.head_dim;
  }
  std::int64_t v(std::int64_t t, std::int64_t h) const {
    return row(t) + (heads.query + heads.key_value) * heads.head_dim + shared(h) * heads.v_dim;
  }
  std::int64_t out(std::int64_t t, std::int64_t h) const {
    return (t * heads.query + h) * heads.v_dim;
  }
};

double dot(View a, std::int64_t at_a, View b, std::int64_t at_b, std::int64_t count) {
  double sum = 0.0;
  for (std::int64_t i = 0; i < count; ++i) {
    sum += a[at_a + i] * b[at_b + i];
  }
  return sum;
}

struct Row {
  Vector probabilities;  // of the keys first .. t
  double lse;
};

Row softmax_row(View qkv, const Layout& at, std::int64_t t, std::int64_t h, std::int64_t first) {
  Vector scores;
  for (std::int64_t s = first; s <= t; ++s) {
    scores.push_back(at.heads.scale * dot(qkv, at.q(t, h), qkv, at.k(s, h), at.heads.head_dim));
  }
  const double largest = *std::max_element(scores.begin(), scores.end());
  double sum = 0.0;
  for (const double score : scores) {
    sum += std::exp(score - largest);
  }
  Row row{{}, largest + std::log(sum)};
  for (const double score : scores) {
    row.probabilities.push_back(std::exp(score - row.lse));
  }
  return row;
}

}  // namespace

Attention attention(View qkv, const Heads& heads, IndexView first_key) {
  const Layout at{heads};
  const std::int64_t tokens = std::ssize(first_key);
  Attention result{Vector(tokens * heads.query * heads.v_dim, 0.0), {}};
  for (std::int64_t t = 0; t < tokens; ++t) {
    for (std::int64_t h = 0; h < heads.query; ++h) {
      const Row row = softmax_row(qkv, at, t, h, first_key[t]);
      result.lse.push_back(row.lse);
      for (std::int64_t s = first_key[t]; s <= t; ++s) {
        for (std::int64_t i = 0; i < heads.v_dim; ++i) {
          result.out[at.out(t, h) + i] += row.probabilities[s - first_key[t]] * qkv[at.v(s, h) + i];
        }
      }
    }
  }
  return result;
}

// With p = softmax(scores): dv_s += p_s dout, dp_s = dout . v_s, dscore_s = p_s (dp_s - sum p dp).
Vector attention_backward(View dout, View qkv, const Heads& heads, IndexView first_key) {
  const Layout at{heads};
  Vector dqkv(qkv.size(), 0.0);
  for (std::int64_t t = 0; t < std::ssize(first_key); ++t) {
    for (std::int64_t h = 0; h < heads.query; ++h) {
      const std::int64_t first = first_key[t];
      const Vector p = softmax_row(qkv, at, t, h, first).probabilities;
      Vector dp;
      double mean = 0.0;
      for (std::int64_t s = first; s <= t; ++s) {
        dp.push_back(dot(dout, at.out(t, h), qkv, at.v(s, h), heads.v_dim));
        mean += p[s - first] * dp.back();
      }
      for (std::int64_t s = first; s <= t; ++s) {
        const double dscore = heads.scale * p[s - first] * (dp[s - first] - mean);
        for (std::int64_t i = 0; i < heads.v_dim; ++i) {
          dqkv[at.v(s, h) + i] += p[s - first] * dout[at.out(t, h) + i];
        }
        for (std::int64_t i = 0; i < heads.head_dim; ++i) {
          dqkv[at.q(t, h) + i] += dscore * qkv[at.k(s, h) + i];
          dqkv[at.k(s, h) + i] += dscore * qkv[at.q(t, h) + i];
        }
      }
    }
  }
  return dqkv;
}

}  // namespace moesaic::reference
