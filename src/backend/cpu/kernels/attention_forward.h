#pragma once

// Attention in tiles with an online softmax (FlashAttention, Dao et al. 2022, algorithm 1). For a
// tile of keys:  S = K Q^T,  m' = max(m, column maximum of S),  P = exp(scale (S - m')),
//   l = l exp(scale (m - m')) + column sum of P,  O = O exp(scale (m - m')) + P^T V;
// at the end O / l and lse = scale m + log l. Scores lie by key, so that a vector holds those of
// sixteen queries and no maximum or sum goes across its lanes. Words of S go along head_dim, those
// of O along keys. A hidden key adds zero: which queries share a tile changes no bit.
#include <limits>

#include "backend/cpu/kernels/attention_softmax.h"

namespace moesaic::cpu::MOESAIC_ISA {
namespace {

// A tile of queries on its way through the keys: what they see, and their softmax.
struct QueryTile {
  Index queries = 0;
  I16 first[kTile / kLanes], last[kTile / kLanes];  // each query sees [first, last)
  Index strip_last[kTile / kStrip];                 // the most of a strip
  Index least_first, most_first, least_last, most_last;
  Softmax softmax;

  // Sees keys [first[i], last[i]); what is beyond the queries is 0.
  QueryTile(const std::int32_t (&firsts)[kTile], const std::int32_t (&lasts)[kTile], Index count)
      : queries(count),
        least_first(std::numeric_limits<std::int32_t>::max()),
        most_first(0),
        least_last(least_first),
        most_last(0) {
    std::memcpy(first, firsts, sizeof first);
    std::memcpy(last, lasts, sizeof last);
    for (Index strip = 0; strip < kTile; strip += kStrip) {
      Index end = 0;
      for (Index i = strip; i < smaller(strip + kStrip, count); ++i) {
        const bool none = firsts[i] >= lasts[i];
        end = none ? end : larger(end, lasts[i]);
        least_first = none ? least_first : smaller(least_first, firsts[i]);
        most_first = larger(most_first, firsts[i]);
        least_last = smaller(least_last, none ? 0 : lasts[i]);
      }
      strip_last[strip / kStrip] = end;
      most_last = larger(most_last, end);
    }
  }

  bool sees_nothing() const { return least_first >= most_last; }
  // Keys of the tile at `key` that some query of a strip may see.
  Index seen(Index strip, Index key, Index keys) const {
    return larger(0, smaller(keys, strip_last[strip / kStrip] - key));
  }
};

// The tiles in the scratch memory, and what they are made of.
struct Tiles {
  float *scores, *values;
  Word* q_columns;
  const Word *k, *v;
  Index head_dim, v_dim;
  float scale;
};

// Whether every strip sees all these keys; else products go by strips.
inline bool all_see(const QueryTile& tile, Index key, Index keys) {
  return tile.least_last >= key + keys;
}

// The weights of keys [key, key + keys), as words in the place of their scores.
template <class Step>
void score_keys(const Tiles& t, QueryTile& tile, Index key, Index keys) {
  const Index row = row_words<Step>(t.head_dim);
  const Index at_once = all_see(tile, key, keys) ? kTile : kStrip;
  Index first = 0;
  for (Index j = 0; j < keys; j += at_once) {
    while (first < tile.queries && tile.strip_last[first / kStrip] <= key + j) {
      first += kStrip;
    }
    if (first >= tile.queries) {
      break;
    }
    multiply<Step>({t.k + j * row, row, 1, t.q_columns + first, kTile, t.scores + j * kTile + first,
                    kTile, smaller(at_once, keys - j), round_up(tile.queries) - first,
                    words_of<Step>(t.head_dim), Into::kOverwrite});
  }
  const bool border = tile.most_first > key || tile.least_last < key + keys;
  for (Index i = 0; i < tile.queries; i += kStrip) {
    const Index seen = tile.seen(i, key, keys);
    if (border) {
      mask(t.scores + i, tile.first[i / kLanes], tile.last[i / kLanes], key, seen);
    }
    update_softmax<Step>(t.scores + i, i, tile.softmax, seen, t.scale * kLog2E);
  }
}

// Adds the values of these keys.
template <class Step>
void add_values(const Tiles& t, const QueryTile& tile, Index key, Index keys) {
  const Index row = round_up(t.v_dim);
  const Index at_once = all_see(tile, key, keys) ? kTile : kStrip;
  for (Index i = 0; i < tile.queries; i += at_once) {
    multiply<Step>({reinterpret_cast<const Word*>(t.scores + i), 1, Step::kElements * kTile, t.v,
                    row, t.values + i * row, row, smaller(at_once, tile.queries - i), row,
                    words_of<Step>(tile.seen(i, key, keys)), Into::kScaleAndAdd,
                    tile.softmax.factor + i});
  }
}

template <class A>
QueryTile begin_tile(const AttentionHead<A>& head, Index query, Index queries) {
  std::int32_t first[kTile] = {};
  std::int32_t last[kTile] = {};
  const auto bytes = static_cast<std::size_t>(queries) * sizeof first[0];
  std::memcpy(first, head.first + query, bytes);
  std::memcpy(last, head.last + query, bytes);
  return {first, last, queries};
}

// Where tiles of keys end: the next border after `key`, at most `end`.
constexpr Index end_of_tile(Index key, Index origin, Index end) {
  return smaller(first_tile(key, origin) + kTile, end);
}

// Keys and values of positions [first, end) in words, a tile every kTile keys of the scratch.
template <class Step, class A>
void load_keys(const AttentionHead<A>& head, Range range, Word* k, Word* v) {
  const Index row = row_words<Step>(head.head_dim);
  const Index v_row = round_up(head.v_dim);
  const auto load = [&](Index position, Index end, Index jump, Word* k_to, Word* v_to) {
    const Index from = position + jump - head.keys.begin;
    load_rows<Step>(head.k + from * head.k_stride, head.k_stride, k_to, end - position,
                    head.head_dim);
    load_across<Step>(head.v + from * head.v_stride, head.v_stride, v_to, end - position,
                      head.v_dim);
  };
  for (Index key = range.begin; key < range.end;) {
    const Index end = end_of_tile(key, head.origin, range.end);
    const Index fork = smaller(larger(head.fork, key), end);
    load(key, fork, 0, k, v);
    load(fork, end, head.jump, k + (fork - key) * row, v + words_of<Step>(fork - key) * v_row);
    k += kTile * row;
    v += words_of<Step>(kTile) * v_row;
    key = end;
  }
}

// What the queries of a call see of the keys that are there, from the border of a tile on.
template <class A>
Range seen_keys(const AttentionHead<A>& head) {
  const Index first = larger(head.seen.begin, head.origin);
  return {larger(head.keys.begin, first_tile(first, head.origin)),
          smaller(head.seen.end, head.keys.end)};
}

// Sums so far, or none.
template <class A>
void take_over(const AttentionParts<A>& parts, Index query, const Tiles& t, QueryTile& tile) {
  const Index row = round_up(t.v_dim);
  clear(t.values, tile.queries * row);
  if (parts.values == nullptr || parts.begins) {
    return;
  }
  for (Index i = 0; i < tile.queries; ++i) {
    const Index from = (query + i) * parts.sums_row;
    tile.softmax.top[i / kLanes][i % kLanes] = parts.top[from];
    tile.softmax.total[i / kLanes][i % kLanes] = parts.total[from];
    std::memcpy(t.values + i * row, parts.values + (query + i) * parts.values_row,
                static_cast<std::size_t>(t.v_dim) * sizeof(float));
  }
}

template <class A>
void hand_over(const AttentionParts<A>& parts, Index query, const Tiles& t, const QueryTile& tile) {
  const Index row = round_up(t.v_dim);
  for (Index i = 0; i < tile.queries; ++i) {
    const float top = tile.softmax.top[i / kLanes][i % kLanes];
    const float total = tile.softmax.total[i / kLanes][i % kLanes];
    const float* const values = t.values + i * row;
    if (parts.values == nullptr) {
      parts.lse[(query + i) * parts.lse_row] =
          write_row(top, total, values, t.scale, parts.out + (query + i) * parts.out_row, t.v_dim);
      continue;
    }
    parts.top[(query + i) * parts.sums_row] = top;
    parts.total[(query + i) * parts.sums_row] = total;
    std::memcpy(parts.values + (query + i) * parts.values_row, values,
                static_cast<std::size_t>(t.v_dim) * sizeof(float));
  }
}

template <class Step, class A>
void attend(const AttentionHead<A>& head, Range queries, const AttentionParts<A>& parts,
            float* scratch) {
  const Index row = row_words<Step>(head.head_dim);
  const Index v_row = round_up(head.v_dim);
  // Keys and values in words, once for all queries.
  const Range range = seen_keys(head);
  Tiles t{};
  t.head_dim = head.head_dim;
  t.v_dim = head.v_dim;
  t.scale = head.scale;
  t.scores = scratch;
  t.values = t.scores + kTile * kTile;
  t.q_columns = reinterpret_cast<Word*>(t.values + kTile * v_row);
  Word* const k = t.q_columns + kTile * row;
  const Index tiles = range.begin < range.end
                          ? (range.end - first_tile(range.begin, head.origin) + kTile - 1) / kTile
                          : 0;
  Word* const v = k + tiles * kTile * row;
  load_keys<Step>(head, range, k, v);
  for (Index query = queries.begin; query < queries.end; query += kTile) {
    QueryTile tile = begin_tile(head, query, smaller(kTile, queries.end - query));
    take_over(parts, query, t, tile);
    load_columns<Step>(head.q + query * head.q_stride, head.q_stride, t.q_columns, tile.queries,
                       head.head_dim);
    const Index end = smaller(tile.most_last, range.end);
    Index key =
        larger(range.begin, tile.sees_nothing() ? end : first_tile(tile.least_first, head.origin));
    while (key < end) {
      const Index next = end_of_tile(key, head.origin, end);
      const Index number =
          (first_tile(key, head.origin) - first_tile(range.begin, head.origin)) / kTile;
      t.k = k + number * kTile * row;
      t.v = v + number * words_of<Step>(kTile) * v_row;
      score_keys<Step>(t, tile, key, next - key);
      add_values<Step>(t, tile, key, next - key);
      key = next;
    }
    hand_over(parts, query, t, tile);
  }
}

}  // namespace
}  // namespace moesaic::cpu::MOESAIC_ISA
