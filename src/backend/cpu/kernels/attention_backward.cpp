// Backward of attention in tiles (FlashAttention, Dao et al. 2022, algorithm 4), with the lse of
// the forward pass:  P = exp(S - lse),  dV += P^T dO,  dS = scale P (dO V^T - rowsum(dO O)),
//   dQ += dS K,  dK += dS^T Q.  The scale is in the tiles of Q and K, not in S and dS.
#include "backend/cpu/kernels/attention_tiles.h"

namespace moesaic::cpu::MOESAIC_ISA {
namespace {

// In the scratch memory: tiles of one step, and q, dout, dq and delta of all queries.
struct Tiles {
  float *p, *ds, *k, *k_columns, *v_columns;
  float *q, *dout, *dq, *delta;
};

Tiles cut(float* scratch, Index padded, Index tokens) {
  Tiles t{};
  t.p = scratch;
  t.ds = t.p + kTile * kTile;
  t.k = t.ds + kTile * kTile;
  t.k_columns = t.k + kTile * padded;
  t.v_columns = t.k_columns + kTile * padded;
  t.q = t.v_columns + kTile * padded;
  t.dout = t.q + tokens * padded;
  t.dq = t.dout + tokens * padded;
  t.delta = t.dq + tokens * padded;
  return t;
}

// Takes out the scores that causality or a document's border forbids to one query.
void mask(float* scores, Index first_key, Index query, Index key, Index keys) {
  const I16 first = splat_index(first_key);
  const I16 last = splat_index(query);
  for (Index j = 0; j < keys; j += kLanes) {
    const I16 here = kLane + splat_index(key + j);
    const F16 score = load(scores + j);
    store(scores + j, (here < first) | (here > last) ? splat(kMasked) : score);
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

// Queries [query, query + queries) meet keys [key, key + keys).
struct Meeting {
  Index query, queries, key, keys;
};

template <class A>
void scores_and_gradients(const Tiles& t, const AttentionHead<A>& head, const Meeting& m,
                          const float* lse, Index lse_stride) {
  const Index padded = round_up(head.head_dim);
  const bool border =
      head.first_key[m.query + m.queries - 1] > m.key || m.key + m.keys - 1 > m.query;
  // b is read for all strips before the next product, to stay in the first-level cache.
  const auto scores = [&](const float* a, const float* b, float* c) {
    for (Index i = 0; i < m.queries; i += kStrip) {
      multiply({a + i * padded, padded, 1, b, kTile, c + i * kTile, kTile,
                smaller(kStrip, m.queries - i), round_up(keys_seen(m.query + i, m.key, m.keys)),
                head.head_dim, Into::kOverwrite});
    }
  };
  scores(t.q + m.query * padded, t.k_columns, t.p);
  scores(t.dout + m.query * padded, t.v_columns, t.ds);
  for (Index i = 0; i < m.queries; ++i) {
    const Index query = m.query + i;
    const Index columns = round_up(keys_seen(query / kStrip * kStrip, m.key, m.keys));
    if (border) {
      mask(t.p + i * kTile, head.first_key[query], query, m.key, columns);
    }
    softmax_backward(t.p + i * kTile, t.ds + i * kTile, lse[query * lse_stride], t.delta[query],
                     columns);
  }
}

// Adds to dk and dv of the keys, and to dq of the queries.
void add_gradients(const Tiles& t, const Meeting& m, Index padded, float* dk, float* dv) {
  const auto of_keys = [&](const float* a, const float* b, float* c) {
    for (Index j = 0; j < m.keys; j += kStrip) {
      const Index first = first_strip(m.query, m.key + j);
      multiply({a + first * kTile + j, 1, kTile, b + (m.query + first) * padded, padded,
                c + (m.key + j) * padded, padded, smaller(kStrip, m.keys - j), padded,
                m.queries - first, Into::kAdd});
    }
  };
  of_keys(t.p, t.dout, dv);
  of_keys(t.ds, t.q, dk);
  for (Index i = 0; i < m.queries; i += kStrip) {
    multiply({t.ds + i * kTile, kTile, 1, t.k, padded, t.dq + (m.query + i) * padded, padded,
              smaller(kStrip, m.queries - i), padded, keys_seen(m.query + i, m.key, m.keys),
              Into::kAdd});
  }
}

}  // namespace

template <class A>
void attention_backward(const AttentionHead<A>& head, const A* dout, const A* out, Index out_stride,
                        const float* lse, Index lse_stride, A* dq, float* dk, float* dv,
                        float* scratch) {
  const Index dim = head.head_dim;
  const Index padded = round_up(dim);
  const Index tokens = head.tokens;
  const Tiles t = cut(scratch, padded, tokens);
  load_rows(head.q, head.stride, head.scale, t.q, tokens, dim, padded);
  load_rows(dout, out_stride, 1.0F, t.dout, tokens, dim, padded);
  clear(t.dq, tokens * padded);
  for (Index i = 0; i < tokens; ++i) {
    F16 dot{};
    for (Index c = 0; c < dim; c += kLanes) {
      dot += load(dout + i * out_stride + c, dim - c) * load(out + i * out_stride + c, dim - c);
    }
    t.delta[i] = sum(dot);
  }
  for (Index key = 0; key < tokens; key += kTile) {
    const Index keys = smaller(kTile, tokens - key);
    load_rows(head.k + key * head.stride, head.stride, head.scale, t.k, keys, dim, padded);
    load_columns(head.k + key * head.stride, head.stride, 1.0F, t.k_columns, keys, dim);
    load_columns(head.v + key * head.stride, head.stride, 1.0F, t.v_columns, keys, dim);
    for (Index query = key; query < tokens && head.first_key[query] < key + keys; query += kTile) {
      const Index queries = smaller(kTile, tokens - query);
      const Meeting m{query, queries, key, keys};
      scores_and_gradients(t, head, m, lse, lse_stride);
      add_gradients(t, m, padded, dk, dv);
    }
  }
  for (Index i = 0; i < tokens; ++i) {
    for (Index c = 0; c < dim; c += kLanes) {
      store(dq + i * head.stride + c, load(t.dq + i * padded + c), dim - c);
    }
  }
}
template void attention_backward(const AttentionHead<float>&, const float*, const float*, Index,
                                 const float*, Index, float*, float*, float*, float*);
template void attention_backward(const AttentionHead<BFloat16>&, const BFloat16*, const BFloat16*,
                                 Index, const float*, Index, BFloat16*, float*, float*, float*);

}  // namespace moesaic::cpu::MOESAIC_ISA
