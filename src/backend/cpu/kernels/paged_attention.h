#pragma once

// Attention to keys and values in pages (Kwon et al. 2023): a page is a tile of keys. The columns
// of a tile of scores are all queries that read the same key head, those of a row beside each
// other. Sums over some of the pages can be joined, so that threads share a long sequence
// (Flash-Decoding, Dao et al. 2023).
#include "backend/cpu/kernels/attention_forward.h"

namespace moesaic::cpu::MOESAIC_ISA {
namespace {

template <class A>
QueryTile begin_tile(const PagedHead<A>& head, Range queries) {
  std::int32_t first[kTile] = {};
  std::int32_t last[kTile] = {};
  for (Index query = queries.begin; query < queries.end; ++query) {
    first[query - queries.begin] = head.first[query / head.heads];
    last[query - queries.begin] = head.last[query / head.heads];
  }
  return {first, last, queries.end - queries.begin};
}

// Prefetches a page of a head: the processor cannot foresee where it lies.
template <class A>
void call_page(const A* page, Index row) {
  constexpr Index kLine = 64 / sizeof(A);
  for (Index i = 0; i < kTile * row; i += kLine) {
    __builtin_prefetch(page + i);
  }
}

template <class Step, class A>
void attend_pages(const PagedHead<A>& head, Range queries, Range pages, const PagedSums& to,
                  float* scratch) {
  const Index row = row_words<Step>(head.head_dim);
  Tiles t{};
  t.head_dim = head.head_dim;
  t.v_dim = head.v_dim;
  t.scale = head.scale;
  t.scores = scratch;
  t.values = to.values;
  t.q_columns = reinterpret_cast<Word*>(t.scores + kTile * kTile);
  Word* const k = t.q_columns + kTile * row;
  Word* const v = k + kTile * row;
  t.k = k;
  t.v = v;
  const auto query = [&](Index i) {
    const Index at = queries.begin + i;
    return head.q + at / head.heads * head.q_row + at % head.heads * head.q_head;
  };
  QueryTile tile = begin_tile(head, queries);
  load_columns<Step>(query, t.q_columns, tile.queries, head.head_dim);
  clear(to.values, tile.queries * round_up(head.v_dim));
  const Index last_page = (tile.most_last - 1) / kTile;  // those after the range may be next
  for (Index page = pages.begin; page < pages.end; ++page) {
    const Index key = page * kTile;
    const Index keys = smaller(kTile, tile.most_last - key);
    load_rows<Step>(head.keys + head.pages[page] * head.key_page, head.key_row, k, keys,
                    head.head_dim);
    load_across<Step>(head.values + head.pages[page] * head.value_page, head.value_row, v, keys,
                      head.v_dim);
    if (page < last_page) {
      call_page(head.keys + head.pages[page + 1] * head.key_page, head.key_row);
    }
    score_keys<Step>(t, tile, key, keys);
    if (page < last_page) {
      call_page(head.values + head.pages[page + 1] * head.value_page, head.value_row);
    }
    add_values<Step>(t, tile, key, keys);
  }
  std::memcpy(to.top, tile.softmax.top, sizeof tile.softmax.top);
  std::memcpy(to.total, tile.softmax.total, sizeof tile.softmax.total);
}

}  // namespace
}  // namespace moesaic::cpu::MOESAIC_ISA
