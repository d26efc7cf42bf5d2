#pragma once

// Attention to keys and values in pages (Kwon et al. 2023), in tiles as attention_forward.h: a page
// is a tile of keys. The columns of a tile of scores are all queries that read the same key head,
// those of a row beside each other. Pages begin at fixed positions of the sequence and a hidden key
// adds zero, so that the sums of a row have one order, whatever else is in its tile. Sums over
// some of the pages can be joined, so that threads share a long sequence (Flash-Decoding, Dao et
// al. 2023).
#include "backend/cpu/kernels/attention_softmax.h"

namespace moesaic::cpu::MOESAIC_ISA {
namespace {

// The positions [first, last] that each query of a tile sees.
struct SeenKeys {
  I16 first[kTile / kLanes], last[kTile / kLanes];
  Index most_first, least_last, most_last;
};

template <class A>
SeenKeys seen_keys(const PagedHead<A>& head, Range queries) {
  std::int32_t first[kTile] = {};
  std::int32_t last[kTile] = {};
  const auto first_of = [&](Index position) {
    return head.window > 0 ? larger(0, position - head.window + 1) : 0;
  };
  for (Index query = queries.begin; query < queries.end; ++query) {
    const Index position = head.position + query / head.heads;
    first[query - queries.begin] = static_cast<std::int32_t>(first_of(position));
    last[query - queries.begin] = static_cast<std::int32_t>(position);
  }
  SeenKeys seen{};
  std::memcpy(seen.first, first, sizeof first);
  std::memcpy(seen.last, last, sizeof last);
  seen.least_last = head.position + queries.begin / head.heads;
  seen.most_last = head.position + (queries.end - 1) / head.heads;
  seen.most_first = first_of(seen.most_last);
  return seen;
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
  const Index v_row = round_up(head.v_dim);
  const Index count = queries.end - queries.begin;
  const Index columns = round_up(count);
  float* const scores = scratch;
  auto* const q_columns = reinterpret_cast<Word*>(scores + kTile * kTile);
  Word* const k = q_columns + kTile * row;
  Word* const v = k + kTile * row;
  const auto query = [&](Index i) {
    const Index at = queries.begin + i;
    return head.q + at / head.heads * head.q_stride + at % head.heads * head.head_dim;
  };
  load_columns<Step>(query, q_columns, count, head.head_dim);
  clear(to.values, count * v_row);
  const SeenKeys seen = seen_keys(head, queries);
  Softmax softmax;
  const Index last_page = seen.most_last / kTile;  // those after the range may be next
  for (Index page = pages.begin; page < pages.end; ++page) {
    const Index key = page * kTile;
    const Index keys = smaller(kTile, seen.most_last + 1 - key);
    load_rows<Step>(head.keys + head.pages[page] * head.key_page, head.key_row, k, keys,
                    head.head_dim);
    load_across<Step>(head.values + head.pages[page] * head.value_page, head.value_row, v, keys,
                      head.v_dim);
    if (page < last_page) {
      call_page(head.keys + head.pages[page + 1] * head.key_page, head.key_row);
    }
    multiply<Step>({k, row, 1, q_columns, kTile, scores, kTile, keys, columns,
                    words_of<Step>(head.head_dim), Into::kOverwrite});
    const bool border = seen.most_first > key || seen.least_last < key + keys - 1;
    for (Index strip = 0; strip < columns; strip += kLanes) {
      if (border) {
        mask(scores + strip, seen.first[strip / kLanes], seen.last[strip / kLanes], key, keys);
      }
      update_softmax<Step>(scores + strip, strip, softmax, keys, head.scale * kLog2E);
    }
    if (page < last_page) {
      call_page(head.values + head.pages[page + 1] * head.value_page, head.value_row);
    }
    multiply<Step>({reinterpret_cast<const Word*>(scores), 1, Step::kElements * kTile, v, v_row,
                    to.values, v_row, count, v_row, words_of<Step>(keys), Into::kScaleAndAdd,
                    softmax.factor});
  }
  std::memcpy(to.top, softmax.top, sizeof softmax.top);
  std::memcpy(to.total, softmax.total, sizeof softmax.total);
}

}  // namespace
}  // namespace moesaic::cpu::MOESAIC_ISA
