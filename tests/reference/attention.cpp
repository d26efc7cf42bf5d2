#include "reference/attention.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <utility>

namespace moesaic::reference {
namespace {

// Where the vectors of row t begin.
struct Layout {
  const Heads& heads;

  std::int64_t shared(std::int64_t h) const { return h / (heads.query / heads.key_value); }
  std::int64_t q(std::int64_t t, std::int64_t h) const {
    return (t * heads.query + h) * heads.head_dim;
  }
  std::int64_t k(std::int64_t t, std::int64_t h) const {
    return (t * heads.key_value + shared(h)) * heads.head_dim;
  }
  std::int64_t v(std::int64_t t, std::int64_t h) const {
    return (t * heads.key_value + shared(h)) * heads.v_dim;
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
  Vector probabilities;  // of the keys that it sees
  double lse;
};

Row softmax_row(View q, View k, const Layout& at, std::int64_t t, std::int64_t h,
                std::int64_t first, std::int64_t last) {
  Vector scores;
  for (std::int64_t s = first; s < last; ++s) {
    scores.push_back(at.heads.scale * dot(q, at.q(t, h), k, at.k(s, h), at.heads.head_dim));
  }
  if (scores.empty()) {
    return {{}, -std::numeric_limits<double>::infinity()};
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

Indices causal(std::int64_t tokens) {
  Indices last;
  for (std::int64_t t = 0; t < tokens; ++t) {
    last.push_back(t + 1);
  }
  return last;
}

}  // namespace

Attention attention(View q, View k, View v, const Heads& heads, IndexView first, IndexView last) {
  const Layout at{heads};
  const std::int64_t rows = std::ssize(first);
  Attention result{Vector(rows * heads.query * heads.v_dim, 0.0), {}};
  for (std::int64_t t = 0; t < rows; ++t) {
    for (std::int64_t h = 0; h < heads.query; ++h) {
      const Row row = softmax_row(q, k, at, t, h, first[t], last[t]);
      result.lse.push_back(row.lse);
      for (std::int64_t s = first[t]; s < last[t]; ++s) {
        for (std::int64_t i = 0; i < heads.v_dim; ++i) {
          result.out[at.out(t, h) + i] += row.probabilities[s - first[t]] * v[at.v(s, h) + i];
        }
      }
    }
  }
  return result;
}

// With p = softmax(scores): dv_s += p_s dout, dp_s = dout . v_s, dscore_s = p_s (dp_s - sum p dp).
AttentionGradients attention_backward(View dout, View q, View k, View v, const Heads& heads,
                                      IndexView first, IndexView last) {
  const Layout at{heads};
  AttentionGradients d{Vector(q.size(), 0.0), Vector(k.size(), 0.0), Vector(v.size(), 0.0)};
  for (std::int64_t t = 0; t < std::ssize(first); ++t) {
    for (std::int64_t h = 0; h < heads.query; ++h) {
      const Vector p = softmax_row(q, k, at, t, h, first[t], last[t]).probabilities;
      Vector dp;
      double mean = 0.0;
      for (std::int64_t s = first[t]; s < last[t]; ++s) {
        dp.push_back(dot(dout, at.out(t, h), v, at.v(s, h), heads.v_dim));
        mean += p[s - first[t]] * dp.back();
      }
      for (std::int64_t s = first[t]; s < last[t]; ++s) {
        const double dscore = heads.scale * p[s - first[t]] * (dp[s - first[t]] - mean);
        for (std::int64_t i = 0; i < heads.v_dim; ++i) {
          d.dv[at.v(s, h) + i] += p[s - first[t]] * dout[at.out(t, h) + i];
        }
        for (std::int64_t i = 0; i < heads.head_dim; ++i) {
          d.dq[at.q(t, h) + i] += dscore * k[at.k(s, h) + i];
          d.dk[at.k(s, h) + i] += dscore * q[at.q(t, h) + i];
        }
      }
    }
  }
  return d;
}

Parts split(View qkv, const Heads& heads) {
  Parts parts;
  const std::array<std::pair<Vector*, std::int64_t>, 3> widths = {
      {{&parts.q, heads.query * heads.head_dim},
       {&parts.k, heads.key_value * heads.head_dim},
       {&parts.v, heads.key_value * heads.v_dim}}};
  for (auto from = qkv.begin(); from != qkv.end();) {
    for (const auto& [part, width] : widths) {
      part->insert(part->end(), from, from + width);
      from += width;
    }
  }
  return parts;
}

Vector fuse(const Parts& parts, const Heads& heads) {
  const std::array<std::pair<const Vector*, std::int64_t>, 3> widths = {
      {{&parts.q, heads.query * heads.head_dim},
       {&parts.k, heads.key_value * heads.head_dim},
       {&parts.v, heads.key_value * heads.v_dim}}};
  Vector qkv;
  const std::int64_t rows = std::ssize(parts.q) / widths[0].second;
  for (std::int64_t t = 0; t < rows; ++t) {
    for (const auto& [part, width] : widths) {
      qkv.insert(qkv.end(), part->begin() + t * width, part->begin() + (t + 1) * width);
    }
  }
  return qkv;
}

Attention attention(View qkv, const Heads& heads, IndexView first_key) {
  const Parts parts = split(qkv, heads);
  return attention(parts.q, parts.k, parts.v, heads, first_key, causal(std::ssize(first_key)));
}

Vector attention_backward(View dout, View qkv, const Heads& heads, IndexView first_key) {
  const Parts parts = split(qkv, heads);
  const AttentionGradients d = attention_backward(dout, parts.q, parts.k, parts.v, heads, first_key,
                                                  causal(std::ssize(first_key)));
  return fuse({d.dq, d.dk, d.dv}, heads);
}

}  // namespace moesaic::reference
