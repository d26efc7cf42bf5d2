// Attention in tiles with an online softmax (FlashAttention, Dao et al. 2022, algorithm 1). For a
// tile of keys:  S = scale K Q^T,  m' = max(m, column maximum of S),  P = exp(S - m'),
//   l = l exp(m - m') + column sum of P,  O = O exp(m - m') + P^T V;
// at the end O / l and lse = m + log l. Scores lie by key, so that a vector holds those of sixteen
// queries and no maximum or sum goes across its lanes.
#include "backend/cpu/kernels/attention_tiles.h"

namespace moesaic::cpu::MOESAIC_ISA {
namespace {

// A tile of queries on its way through the keys.
struct QueryTile {
  Index query, queries;
  I16 first_key[kTile / kLanes];
  F16 top[kTile / kLanes], total[kTile / kLanes];
  float factor[kTile];  // for what was summed before the present tile of keys
};

QueryTile begin_tile(const std::int32_t* first_key, Index query, Index queries) {
  QueryTile tile{};
  tile.query = query;
  tile.queries = queries;
  std::int32_t first[kTile] = {};
  std::memcpy(first, first_key + query, static_cast<std::size_t>(queries) * sizeof first[0]);
  std::memcpy(tile.first_key, first, sizeof first);
  for (F16& top : tile.top) {
    top = splat(kMasked);
  }
  return tile;
}

// Takes out the scores of keys [key, key + keys) that causality or a document's border forbids to
// the sixteen queries of a strip.
void mask(float* scores, Index strip, const QueryTile& tile, Index key, Index keys) {
  const I16 first = tile.first_key[strip / kLanes];
  const I16 last = kLane + splat_index(tile.query + strip);
  for (Index j = 0; j < keys; ++j, scores += kTile) {
    const I16 here = splat_index(key + j);
    const F16 score = load(scores);
    const I16 masked = (here < first) | (here > last);
    store(scores, masked ? splat(kMasked) : score);
  }
}

// Of each query of a strip, and of what is given.
F16 largest(const float* scores, Index keys, F16 given) {
  F16 best[4] = {given, given, given, given};
  Index j = 0;
  for (; j + 4 <= keys; j += 4) {
    for (Index i = 0; i < 4; ++i) {
      best[i] = max(load(scores + (j + i) * kTile), best[i]);
    }
  }
  for (; j < keys; ++j) {
    best[0] = max(load(scores + j * kTile), best[0]);
  }
  return max(max(best[0], best[1]), max(best[2], best[3]));
}

// The online softmax of a strip: scores become P.
void update_softmax(float* scores, Index strip, QueryTile& tile, Index keys) {
  F16& top = tile.top[strip / kLanes];
  F16& total = tile.total[strip / kLanes];
  const F16 best = largest(scores, keys, top);
  const F16 factor = exp(top - best);
  F16 sum{};
  for (Index j = 0; j < keys; ++j) {
    const F16 p = exp(load(scores + j * kTile) - best);
    store(scores + j * kTile, p);
    sum += p;
  }
  store(tile.factor + strip, factor);
  total = total * factor + sum;
  top = best;
}

// The tiles in the scratch memory.
struct Tiles {
  float *scores, *q_columns, *sums;
  const float *k, *v;
};

// Adds keys [key, key + keys) to the sums of a tile of queries.
void add_keys(const Tiles& t, QueryTile& tile, Index key, Index keys, Index dim, Index v_padded,
              bool border) {
  const Index padded = round_up(dim);
  for (Index j = 0; j < keys; j += kStrip) {
    const Index first = first_strip(tile.query, key + j);
    multiply({t.k + j * padded, padded, 1, t.q_columns + first, kTile, t.scores + j * kTile + first,
              kTile, smaller(kStrip, keys - j), kTile - first, dim, Into::kOverwrite});
  }
  for (Index i = 0; i < tile.queries; i += kStrip) {
    const Index seen = keys_seen(tile.query + i, key, keys);
    if (border) {
      mask(t.scores + i, i, tile, key, seen);
    }
    update_softmax(t.scores + i, i, tile, seen);
    multiply({t.scores + i, 1, kTile, t.v, v_padded, t.sums + i * v_padded, v_padded,
              smaller(kStrip, tile.queries - i), v_padded, seen, Into::kScaleAndAdd,
              tile.factor + i});
  }
}

}  // namespace

template <class A>
void attention(const AttentionHead<A>& head, Index begin, Index end, A* out, Index out_stride,
               float* lse, Index lse_stride, float* scratch) {
  const Index dim = head.head_dim;
  const Index padded = round_up(dim);
  const Index v_padded = round_up(head.v_dim);
  // Keys and values as floats, once for all queries: [first, end).
  const Index first = first_tile(head.first_key[begin]);
  Tiles t{};
  t.scores = scratch;
  t.q_columns = t.scores + kTile * kTile;
  t.sums = t.q_columns + kTile * padded;
  float* const k = t.sums + kTile * v_padded;
  float* const v = k + (end - first) * padded;
  load_rows(head.k + first * head.stride, head.stride, 1.0F, k, end - first, dim, padded);
  load_rows(head.v + first * head.stride, head.stride, 1.0F, v, end - first, head.v_dim, v_padded);
  for (Index query = begin; query < end; query += kTile) {
    const Index queries = smaller(kTile, end - query);
    QueryTile tile = begin_tile(head.first_key, query, queries);
    load_columns(head.q + query * head.stride, head.stride, head.scale, t.q_columns, queries, dim);
    clear(t.sums, queries * v_padded);
    for (Index key = first_tile(head.first_key[query]); key < query + queries; key += kTile) {
      t.k = k + (key - first) * padded;
      t.v = v + (key - first) * v_padded;
      const Index keys = smaller(kTile, end - key);
      const bool border = head.first_key[query + queries - 1] > key || key + keys - 1 > query;
      add_keys(t, tile, key, keys, dim, v_padded, border);
    }
    for (Index i = 0; i < queries; ++i) {
      const float total = tile.total[i / kLanes][i % kLanes];
      const float inverse = 1.0F / total;
      for (Index c = 0; c < head.v_dim; c += kLanes) {
        store(out + (query + i) * out_stride + c, load(t.sums + i * v_padded + c) * inverse,
              head.v_dim - c);
      }
      lse[(query + i) * lse_stride] = tile.top[i / kLanes][i % kLanes] + __builtin_logf(total);
    }
  }
}
template void attention(const AttentionHead<float>&, Index, Index, float*, Index, float*, Index,
                        float*);
template void attention(const AttentionHead<BFloat16>&, Index, Index, BFloat16*, Index, float*,
                        Index, float*);

}  // namespace moesaic::cpu::MOESAIC_ISA
