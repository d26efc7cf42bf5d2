#pragma once

// Backward of attention in tiles (FlashAttention, Dao et al. 2022, algorithm 4), with the lse of
// the forward pass:  S = Q K^T,  P = exp(scale S - lse),  dV += P^T dO,
//   dS = scale P (dO V^T - rowsum(dO O)),  dQ += dS K,  dK += dS^T Q.
// Scores lie by query. Words of S and dO V^T go along the head, those of dV and dK along queries,
// and those of dQ along keys.
#include "backend/cpu/kernels/attention_tiles.h"

namespace moesaic::cpu::MOESAIC_ISA {
namespace {

// Rows of all queries of a call in words along the head and across queries; one where a word is
// one number.
struct Rows {
  Word *along, *across;
};

// In the scratch memory: tiles of one step, and what belongs to all queries of a call.
struct Gradients {
  float *p, *ds;  // (queries, keys): S and dO V^T; then words of P and dS across queries
  Word* ds_rows;  // words of dS along keys; ds where a word is one number
  Word *k_across, *k_columns, *v_columns;
  Rows q, dout;
  float *dq, *delta;
};

// Words between the rows of p and ds, and of ds_rows.
constexpr Index kScoreRow = kTile;
template <class Step>
constexpr Index kRoundedRow = kTile / Step::kElements;

template <class Step>
Gradients cut(float* scratch, Index dim, Index v_dim, Index queries) {
  const auto words = [&](Index n) {
    auto* const begin = reinterpret_cast<Word*>(scratch);
    scratch += n;
    return begin;
  };
  const auto floats = [&](Index n) { return reinterpret_cast<float*>(words(n)); };
  const auto rows = [&](Index width) {
    const Index across = words_of<Step>(queries) * round_up(width);
    Rows r{};
    r.across = words(across);
    r.along = Step::kElements == 1 ? r.across : words(queries * row_words<Step>(width));
    return r;
  };
  Gradients t{};
  t.p = floats(kTile * kScoreRow);
  t.ds = floats(kTile * kScoreRow);
  t.ds_rows =
      Step::kElements == 1 ? reinterpret_cast<Word*>(t.ds) : words(kTile * kRoundedRow<Step>);
  t.k_across = words(kRoundedRow<Step> * round_up(dim));
  t.k_columns = words(kTile * row_words<Step>(dim));
  t.v_columns = words(kTile * row_words<Step>(v_dim));
  t.q = rows(dim);
  t.dout = rows(v_dim);
  t.dq = floats(queries * round_up(dim));
  t.delta = floats(queries);
  return t;
}

// Takes out the scores of keys outside of [first, last) for one query.
void mask(float* scores, Index first_key, Index last_key, Index key, Index keys) {
  const I16 first = splat_index(first_key);
  const I16 last = splat_index(last_key);
  for (Index j = 0; j < keys; j += kLanes) {
    const I16 here = kLane + splat_index(key + j);
    const F16 score = load(scores + j);
    const I16 masked = (here < first) | (here >= last);
    store(scores + j, masked ? splat(kMasked) : score);
  }
}

// What the queries of a tile see, all together; and of each strip the last key.
struct Seen {
  Index strip_last[kTile / kStrip];
  Index least_first, most_first, least_last, most_last;
  bool grows;  // no strip sees less far than the one before

  Seen(const StripRange* strips, Index count)
      : least_first(strips[0].least_first),
        most_first(strips[0].most_first),
        least_last(strips[0].least_last),
        most_last(strips[0].most_last),
        grows(true) {
    for (Index i = 0; i < count; ++i) {
      strip_last[i] = strips[i].most_last;
      least_first = smaller(least_first, strips[i].least_first);
      most_first = larger(most_first, strips[i].most_first);
      least_last = smaller(least_last, strips[i].least_last);
      most_last = larger(most_last, strips[i].most_last);
      grows = grows && (i == 0 || strip_last[i - 1] <= strip_last[i]);
    }
  }
};

// Queries [query, query + queries) meet keys [key, key + keys); those of the call begin at
// first_query and first_key.
struct Meeting {
  Index query, queries, key, keys;
  Index first_query, first_key;
  Seen seen;
  // Rows that a product takes at once: all, unless what their strips see ends in steps.
  Index at_once = seen.grows && seen.least_last < key + keys ? kStrip : kTile;

  Index row() const { return query - first_query; }  // of the call's queries
  // Keys that the strip of query i of the tile sees.
  Index keys_of(Index i) const {
    return at_once == kTile ? keys : larger(0, smaller(keys, seen.strip_last[i / kStrip] - key));
  }
  // The first strip, counted in queries, that sees the keys from j on.
  Index first_strip(Index j) const {
    Index i = 0;
    while (at_once == kStrip && i < queries && keys_of(i) <= j) {
      i += kStrip;
    }
    return i;
  }
};

// From S and dO V^T of the queries of one word, of which `count` exist, to words of P and dS.
template <class Step>
void softmax_backward(const Gradients& t, Index row, Index count, Index keys, float scale,
                      const float* lse, Index lse_stride, const float* delta) {
  float* const p = t.p + row * kScoreRow;
  float* const ds = t.ds + row * kScoreRow;
  float log2_sums[Step::kElements], deltas[Step::kElements];
  for (Index e = 0; e < count; ++e) {
    const float sum = lse[e * lse_stride];
    log2_sums[e] = sum > kMasked ? sum * kLog2E : 0.0F;  // else it has no keys
    deltas[e] = delta[e];
  }
  for (Index j = 0; j < keys; j += kLanes) {
    F16 p_terms[Step::kElements], ds_terms[Step::kElements];
    for (Index e = 0; e < Step::kElements; ++e) {
      if (e < count) {
        const float* const score = p + e * kScoreRow + j;
        const float* const dp = ds + e * kScoreRow + j;
        p_terms[e] = exp2(load(score) * (scale * kLog2E) - log2_sums[e]);
        ds_terms[e] = p_terms[e] * ((load(dp) - deltas[e]) * scale);
      } else {
        p_terms[e] = F16{};
        ds_terms[e] = F16{};
      }
    }
    store_words(reinterpret_cast<Word*>(p + j), Step::across(p_terms));
    store_words(reinterpret_cast<Word*>(ds + j), Step::across(ds_terms));
    for (Index e = 0; Step::kElements > 1 && e < Step::kElements; ++e) {
      Step::store_along(t.ds_rows + (row + e) * kRoundedRow<Step> + j / Step::kElements,
                        ds_terms[e]);
    }
  }
}

template <class Step, class A>
void scores_and_gradients(const Gradients& t, const AttentionHead<A>& head, const Meeting& m,
                          const float* lse, Index lse_stride) {
  // b is read for all rows before the next product, to stay in the first-level cache.
  const auto scores = [&](const Word* a, const Word* b, float* c, Index dim) {
    const Index row = row_words<Step>(dim);
    for (Index i = 0; i < m.queries; i += m.at_once) {
      multiply<Step>({a + (m.row() + i) * row, row, 1, b, kTile, c + i * kScoreRow, kScoreRow,
                      smaller(m.at_once, m.queries - i), round_up(m.keys_of(i)),
                      words_of<Step>(dim), Into::kOverwrite});
    }
  };
  scores(t.q.along, t.k_columns, t.p, head.head_dim);
  scores(t.dout.along, t.v_columns, t.ds, head.v_dim);
  // Columns beyond the last key are masked too, as a word of pairs reads one of them.
  const Index end = m.key + m.keys;
  const bool border = m.seen.most_first > m.key || m.seen.least_last < end || m.keys % kLanes != 0;
  for (Index i = 0; i < m.queries; i += Step::kElements) {
    const Index query = m.query + i;
    const Index columns = round_up(m.keys_of(i));
    const Index count = smaller(Step::kElements, m.queries - i);
    for (Index e = 0; border && e < count; ++e) {
      mask(t.p + (i + e) * kScoreRow, head.first[query + e], smaller(head.last[query + e], end),
           m.key, columns);
    }
    softmax_backward<Step>(t, i, count, columns, head.scale, lse + query * lse_stride, lse_stride,
                           t.delta + m.row() + i);
  }
}

template <class Step>
void add_to_keys(const Gradients& t, const Meeting& m, Index dim, Index v_dim, float* dk,
                 float* dv) {
  const auto add = [&](const float* a, const Word* b, float* c, Index padded) {
    for (Index j = 0; j < m.keys; j += m.at_once) {
      const Index first = m.first_strip(j);
      if (first >= m.queries) {
        break;
      }
      multiply<Step>({reinterpret_cast<const Word*>(a + first * kScoreRow + j), 1,
                      Step::kElements * kScoreRow, b + words_of<Step>(m.row() + first) * padded,
                      padded, c + (m.key - m.first_key + j) * padded, padded,
                      smaller(m.at_once, m.keys - j), padded, words_of<Step>(m.queries - first),
                      Into::kAdd});
    }
  };
  add(t.p, t.dout.across, dv, round_up(v_dim));
  add(t.ds, t.q.across, dk, round_up(dim));
}

template <class Step>
void add_to_queries(const Gradients& t, const Meeting& m, Index dim) {
  const Index padded = round_up(dim);
  for (Index i = 0; i < m.queries; i += m.at_once) {
    multiply<Step>({t.ds_rows + i * kRoundedRow<Step>, kRoundedRow<Step>, 1, t.k_across, padded,
                    t.dq + (m.row() + i) * padded, padded, smaller(m.at_once, m.queries - i),
                    padded, words_of<Step>(m.keys_of(i)), Into::kAdd});
  }
}

Seen seen_by_tile(const StripRange* strips, Index query, Index end) {
  return {strips + query / kStrip, (smaller(kTile, end - query) + kStrip - 1) / kStrip};
}

// Those of the call that see some of its keys, from the first to the last tile; all if their
// gradient is wanted.
template <class A>
Range queries_of(const AttentionGradient<A>& g) {
  if (g.wants_dq()) {
    return g.queries;
  }
  Range queries{g.queries.end, g.queries.begin};
  for (Index query = g.queries.begin; query < g.queries.end; query += kTile) {
    const Seen seen = seen_by_tile(g.strips, query, g.queries.end);
    if (seen.least_first < g.keys.end && seen.most_last > g.keys.begin) {
      queries.begin = smaller(queries.begin, query);
      queries.end = smaller(query + kTile, g.queries.end);
    }
  }
  return queries.begin < queries.end ? queries : Range{0, 0};
}

// q and dout in words, delta = rowsum(dO O), and dq = 0.
template <class Step, class A>
void load_queries(const Gradients& t, const AttentionHead<A>& head, const AttentionGradient<A>& g,
                  const Range& queries) {
  const Index count = queries.end - queries.begin;
  const A* dout = g.dout + queries.begin * g.out_stride;
  const A* out = g.out + queries.begin * g.out_stride;
  const auto load_both = [&](const A* from, Index stride, const Rows& to, Index dim) {
    load_rows<Step>(from, stride, to.along, count, dim);
    if constexpr (Step::kElements > 1) {
      load_across<Step>(from, stride, to.across, count, dim);
    }
  };
  load_both(head.q + queries.begin * head.q_stride, head.q_stride, t.q, head.head_dim);
  load_both(dout, g.out_stride, t.dout, head.v_dim);
  for (Index i = 0; i < count; ++i) {
    F16 dot{};
    for (Index c = 0; c < head.v_dim; c += kLanes) {
      dot += load(dout + i * g.out_stride + c, head.v_dim - c) *
             load(out + i * g.out_stride + c, head.v_dim - c);
    }
    t.delta[i] = sum(dot);
  }
  clear(t.dq, count * round_up(head.head_dim));
}

template <class Step, class A>
void attend_backward(const AttentionHead<A>& head, const AttentionGradient<A>& g, float* scratch) {
  const Index dim = head.head_dim;
  const Range range = queries_of(g);
  if (range.begin == range.end) {
    return;
  }
  const auto t = cut<Step>(scratch, dim, head.v_dim, range.end - range.begin);
  load_queries<Step>(t, head, g, range);
  for (Index key = g.keys.begin; key < g.keys.end; key += kTile) {
    const Index keys = smaller(kTile, g.keys.end - key);
    bool loaded = false;
    for (Index query = range.begin; query < range.end; query += kTile) {
      const Meeting m{query,        smaller(kTile, range.end - query),       key, keys, range.begin,
                      g.keys.begin, seen_by_tile(g.strips, query, range.end)};
      if (m.seen.least_first >= key + keys || m.seen.most_last <= key) {
        continue;
      }
      if (!loaded) {
        const Index from = key - head.keys.begin;
        load_across<Step>(head.k + from * head.k_stride, head.k_stride, t.k_across, keys, dim);
        load_columns<Step>(head.k + from * head.k_stride, head.k_stride, t.k_columns, keys, dim);
        load_columns<Step>(head.v + from * head.v_stride, head.v_stride, t.v_columns, keys,
                           head.v_dim);
        loaded = true;
      }
      scores_and_gradients<Step>(t, head, m, g.lse, g.lse_stride);
      if (g.dk != nullptr) {
        add_to_keys<Step>(t, m, dim, head.v_dim, g.dk, g.dv);
      }
      if (g.wants_dq()) {
        add_to_queries<Step>(t, m, dim);
      }
    }
  }
  for (Index i = range.begin; g.wants_dq() && i < range.end; ++i) {
    const float* const from = t.dq + (i - range.begin) * round_up(dim);
    for (Index c = 0; c < dim; c += kLanes) {
      if (g.dq_sum != nullptr) {
        float* const to = g.dq_sum + i * g.dq_stride + c;
        store(to, load(to, dim - c) + load(from + c), dim - c);
      } else {
        store(g.dq + i * g.dq_stride + c, load(from + c), dim - c);
      }
    }
  }
}

}  // namespace
}  // namespace moesaic::cpu::MOESAIC_ISA
