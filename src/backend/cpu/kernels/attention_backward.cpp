// Backward of attention in tiles (FlashAttention, Dao et al. 2022, algorithm 4), with the lse of
// the forward pass:  P = exp(S - lse),  dV += P^T dO,  dS = scale P (dO V^T - rowsum(dO O)),
//   dQ += dS K,  dK += dS^T Q.  The scale is in the tiles of Q and K, not in S and dS.
#include "backend/cpu/kernels/attention_tiles.h"

namespace moesaic::cpu::MOESAIC_ISA {
namespace {

// In the scratch memory: tiles of one step, and q, dout, dq and delta of all queries of a call.
struct Tiles {
  float *p, *ds, *k, *k_columns, *v_columns;
  float *q, *dout, *dq, *delta;
};

Tiles cut(float* scratch, Index padded, Index v_padded, Index queries) {
  Tiles t{};
  t.p = scratch;
  t.ds = t.p + kTile * kTile;
  t.k = t.ds + kTile * kTile;
  t.k_columns = t.k + kTile * padded;
  t.v_columns = t.k_columns + kTile * padded;
  t.q = t.v_columns + kTile * v_padded;
  t.dout = t.q + queries * padded;
  t.dq = t.dout + queries * v_padded;
  t.delta = t.dq + queries * padded;
  return t;
}

// Takes out the scores that causality or a document's border forbids to one query.
void mask(float* scores, Index first_key, Index query, Index key, Index keys) {
  const I16 first = splat_index(first_key);
  const I16 last = splat_index(query);
  for (Index j = 0; j < keys; j += kLanes) {
    const I16 here = kLane + splat_index(key + j);
    const F16 score = load(scores + j);
    const I16 masked = (here < first) | (here > last);
    store(scores + j, masked ? splat(kMasked) : score);
  }
}

// P and dS of one query from its scores and dO V^T; the scale of dS is in Q and K.
void softmax_backward(float* p, float* ds, float lse, float delta, Index keys) {
  for (Index j = 0; j < keys; j += kLanes) {
    const F16 probability = exp(load(p + j) - lse);
    store(p + j, probability);
    store(ds + j, probability * (load(ds + j) - delta));
  }
}

// Queries [query, query + queries) meet keys [key, key + keys); those of the call begin at
// first_query and first_key.
struct Meeting {
  Index query, queries, key, keys;
  Index first_query, first_key;
};

template <class A>
void scores_and_gradients(const Tiles& t, const AttentionHead<A>& head, const Meeting& m,
                          const float* lse, Index lse_stride) {
  const bool border =
      head.first_key[m.query + m.queries - 1] > m.key || m.key + m.keys - 1 > m.query;
  // b is read for all strips before the next product, to stay in the first-level cache.
  const auto scores = [&](const float* a, const float* b, float* c, Index dim) {
    const Index padded = round_up(dim);
    for (Index i = 0; i < m.queries; i += kStrip) {
      multiply({a + i * padded, padded, 1, b, kTile, c + i * kTile, kTile,
                smaller(kStrip, m.queries - i), round_up(keys_seen(m.query + i, m.key, m.keys)),
                dim, Into::kOverwrite});
    }
  };
  const Index row = m.query - m.first_query;
  scores(t.q + row * round_up(head.head_dim), t.k_columns, t.p, head.head_dim);
  scores(t.dout + row * round_up(head.v_dim), t.v_columns, t.ds, head.v_dim);
  for (Index i = 0; i < m.queries; ++i) {
    const Index query = m.query + i;
    const Index columns = round_up(keys_seen(query / kStrip * kStrip, m.key, m.keys));
    if (border) {
      mask(t.p + i * kTile, head.first_key[query], query, m.key, columns);
    }
    softmax_backward(t.p + i * kTile, t.ds + i * kTile, lse[query * lse_stride],
                     t.delta[query - m.first_query], columns);
  }
}

void add_to_keys(const Tiles& t, const Meeting& m, Index k_padded, Index v_padded, float* dk,
                 float* dv) {
  const auto add = [&](const float* a, const float* b, float* c, Index padded) {
    for (Index j = 0; j < m.keys; j += kStrip) {
      const Index first = first_strip(m.query, m.key + j);
      multiply({a + first * kTile + j, 1, kTile, b + (m.query - m.first_query + first) * padded,
                padded, c + (m.key - m.first_key + j) * padded, padded, smaller(kStrip, m.keys - j),
                padded, m.queries - first, Into::kAdd});
    }
  };
  add(t.p, t.dout, dv, v_padded);
  add(t.ds, t.q, dk, k_padded);
}

void add_to_queries(const Tiles& t, const Meeting& m, Index padded) {
  for (Index i = 0; i < m.queries; i += kStrip) {
    multiply({t.ds + i * kTile, kTile, 1, t.k, padded,
              t.dq + (m.query - m.first_query + i) * padded, padded, smaller(kStrip, m.queries - i),
              padded, keys_seen(m.query + i, m.key, m.keys), Into::kAdd});
  }
}

// Those of the call that see some of its keys.
template <class A>
Range queries_of(const AttentionHead<A>& head, const AttentionGradient<A>& g) {
  Range queries{larger(g.queries.begin, g.keys.begin), g.queries.end};
  if (g.dq == nullptr) {
    Index end = queries.begin;
    while (end < g.queries.end && head.first_key[end] < g.keys.end) {
      end = smaller(end + kTile, g.queries.end);
    }
    queries.end = end;
  }
  return queries;
}

// q and dout as floats, delta = rowsum(dO O), and dq = 0.
template <class A>
void load_queries(const Tiles& t, const AttentionHead<A>& head, const AttentionGradient<A>& g,
                  const Range& queries) {
  const Index dim = head.head_dim;
  const Index padded = round_up(dim);
  const Index v_padded = round_up(head.v_dim);
  const Index count = queries.end - queries.begin;
  const A* dout = g.dout + queries.begin * g.out_stride;
  const A* out = g.out + queries.begin * g.out_stride;
  load_rows(head.q + queries.begin * head.stride, head.stride, head.scale, t.q, count, dim, padded);
  load_rows(dout, g.out_stride, 1.0F, t.dout, count, head.v_dim, v_padded);
  for (Index i = 0; i < count; ++i) {
    F16 dot{};
    for (Index c = 0; c < head.v_dim; c += kLanes) {
      dot += load(t.dout + i * v_padded + c) * load(out + i * g.out_stride + c, head.v_dim - c);
    }
    t.delta[i] = sum(dot);
  }
  clear(t.dq, count * padded);
}

}  // namespace

template <class A>
void attention_backward(const AttentionHead<A>& head, const AttentionGradient<A>& g,
                        float* scratch) {
  const Index dim = head.head_dim;
  const Index padded = round_up(dim);
  const Index v_padded = round_up(head.v_dim);
  const Range range = queries_of(head, g);
  if (range.begin == range.end) {
    return;
  }
  const Tiles t = cut(scratch, padded, v_padded, range.end - range.begin);
  load_queries(t, head, g, range);
  const Index first = larger(g.keys.begin, first_tile(head.first_key[range.begin]));
  for (Index key = first; key < g.keys.end; key += kTile) {
    const Index keys = smaller(kTile, head.tokens - key);
    load_rows(head.k + key * head.stride, head.stride, head.scale, t.k, keys, dim, padded);
    load_columns(head.k + key * head.stride, head.stride, 1.0F, t.k_columns, keys, dim);
    load_columns(head.v + key * head.stride, head.stride, 1.0F, t.v_columns, keys, head.v_dim);
    for (Index query = larger(key, range.begin);
         query < range.end && head.first_key[query] < key + keys; query += kTile) {
      const Meeting m{query,       smaller(kTile, range.end - query), key, keys, range.begin,
                      g.keys.begin};
      scores_and_gradients(t, head, m, g.lse, g.lse_stride);
      if (g.dk != nullptr) {
        add_to_keys(t, m, padded, v_padded, g.dk, g.dv);
      }
      if (g.dq != nullptr) {
        add_to_queries(t, m, padded);
      }
    }
  }
  for (Index i = range.begin; g.dq != nullptr && i < range.end; ++i) {
    for (Index c = 0; c < dim; c += kLanes) {
      store(g.dq + i * head.stride + c, load(t.dq + (i - range.begin) * padded + c), dim - c);
    }
  }
}
template void attention_backward(const AttentionHead<float>&, const AttentionGradient<float>&,
                                 float*);
template void attention_backward(const AttentionHead<BFloat16>&, const AttentionGradient<BFloat16>&,
                                 float*);

}  // namespace moesaic::cpu::MOESAIC_ISA
