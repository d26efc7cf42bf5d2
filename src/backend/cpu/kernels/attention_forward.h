#pragma once

// Attention in tiles with an online softmax (FlashAttention, Dao et al. 2022, algorithm 1). For a
// tile of keys:  S = K Q^T,  m' = max(m, column maximum of S),  P = exp(scale (S - m')),
//   l = l exp(scale (m - m')) + column sum of P,  O = O exp(scale (m - m')) + P^T V;
// at the end O / l and lse = scale m + log l. Scores lie by key, so that a vector holds those of
// sixteen queries and no maximum or sum goes across its lanes. Words of S go along head_dim, those
// of O along keys.
#include "backend/cpu/kernels/attention_softmax.h"

namespace moesaic::cpu::MOESAIC_ISA {
namespace {

// A tile of queries on its way through the keys.
struct QueryTile {
  Index query, queries;
  Index strip;  // the first one that has queries; counted in queries
  I16 first_key[kTile / kLanes];
  Softmax softmax;
};

template <class A>
QueryTile begin_tile(const AttentionHead<A>& head, Index query, Index queries) {
  QueryTile tile{};
  tile.query = query;
  tile.queries = queries;
  tile.strip = larger(head.shared - query, 0) / kStrip * kStrip;
  std::int32_t first[kTile] = {};
  std::memcpy(first, head.first_key + query, static_cast<std::size_t>(queries) * sizeof first[0]);
  std::memcpy(tile.first_key, first, sizeof first);
  return tile;
}

// The tiles in the scratch memory.
struct Tiles {
  float *scores, *sums;
  Word* q_columns;
  const Word *k, *v;
};

// Adds keys [key, key + keys) to the sums of a tile of queries.
template <class Step, class A>
void add_keys(const Tiles& t, const AttentionHead<A>& head, QueryTile& tile, Index key,
              Index keys) {
  const Index row = row_words<Step>(head.head_dim);
  const Index v_row = round_up(head.v_dim);
  const Index at_once = rows_at_once(tile.query, key);
  for (Index j = 0; j < keys; j += at_once) {
    const Index first = larger(first_strip(tile.query, key + j), tile.strip);
    multiply<Step>({t.k + j * row, row, 1, t.q_columns + first, kTile, t.scores + j * kTile + first,
                    kTile, smaller(at_once, keys - j), round_up(tile.queries) - first,
                    words_of<Step>(head.head_dim), Into::kOverwrite});
  }
  const bool border =
      head.first_key[tile.query + tile.queries - 1] > key || key + keys - 1 > tile.query;
  for (Index i = tile.strip; i < tile.queries; i += kStrip) {
    const Index seen = keys_seen(tile.query + i, key, keys);
    if (border) {
      mask(t.scores + i, tile.first_key[i / kLanes], kLane + splat_index(tile.query + i), key,
           seen);
    }
    update_softmax<Step>(t.scores + i, i, tile.softmax, seen, head.scale * kLog2E);
  }
  for (Index i = tile.strip; i < tile.queries; i += at_once) {
    multiply<Step>({reinterpret_cast<const Word*>(t.scores + i), 1, Step::kElements * kTile, t.v,
                    v_row, t.sums + i * v_row, v_row, smaller(at_once, tile.queries - i), v_row,
                    words_of<Step>(smaller(keys, tile.query + i + at_once - key)),
                    Into::kScaleAndAdd, tile.softmax.factor + i});
  }
}

// Keys and values [first, end) in words, the shared ones from where they lie.
template <class Step, class A>
void load_keys(const AttentionHead<A>& head, Index first, Index end, Word* k, Word* v) {
  const Index own = larger(first, head.shared);
  const auto load = [&](Index key, Index after, Index back) {
    const Index from = (key - back) * head.stride;
    load_rows<Step>(head.k + from, head.stride, k + (key - first) * row_words<Step>(head.head_dim),
                    after - key, head.head_dim);
    load_across<Step>(head.v + from, head.stride,
                      v + words_of<Step>(key - first) * round_up(head.v_dim), after - key,
                      head.v_dim);
  };
  load(first, own, head.back);
  load(own, end, 0);
}

template <class Step, class A>
void attend(const AttentionHead<A>& head, Index begin, Index end, A* out, Index out_stride,
            float* lse, Index lse_stride, float* scratch) {
  const Index row = row_words<Step>(head.head_dim);
  const Index v_row = round_up(head.v_dim);
  // Keys and values in words, once for all queries: [first, end).
  const Index first = first_tile(head.first_key[begin]);
  Tiles t{};
  t.scores = scratch;
  t.sums = t.scores + kTile * kTile;
  t.q_columns = reinterpret_cast<Word*>(t.sums + kTile * v_row);
  Word* const k = t.q_columns + kTile * row;
  Word* const v = k + (end - first) * row;
  load_keys<Step>(head, first, end, k, v);
  for (Index query = begin; query < end; query += kTile) {
    const Index queries = smaller(kTile, end - query);
    QueryTile tile = begin_tile(head, query, queries);
    load_columns<Step>(head.q + query * head.stride, head.stride, t.q_columns, queries,
                       head.head_dim);
    clear(t.sums, queries * v_row);
    for (Index key = first_tile(head.first_key[query]); key < query + queries; key += kTile) {
      t.k = k + (key - first) * row;
      t.v = v + words_of<Step>(key - first) * v_row;
      add_keys<Step>(t, head, tile, key, smaller(kTile, end - key));
    }
    for (Index i = larger(head.shared - query, 0); i < queries; ++i) {
      const Index to = query + i;
      lse[to * lse_stride] = write_row(
          tile.softmax.top[i / kLanes][i % kLanes], tile.softmax.total[i / kLanes][i % kLanes],
          t.sums + i * v_row, head.scale, out + to * out_stride, head.v_dim);
    }
  }
}

}  // namespace
}  // namespace moesaic::cpu::MOESAIC_ISA
