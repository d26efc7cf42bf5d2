#pragma once

// The online softmax of a tile of queries (Milakov & Gimelshein 2018): the scores of the next keys
// replace the largest one so far, and what was summed before is scaled to it. Scores lie by key, so
// that a vector holds those of sixteen queries and no maximum or sum goes across its lanes.
#include "backend/cpu/kernels/attention_tiles.h"

namespace moesaic::cpu::MOESAIC_ISA {
namespace {

// Running maximum and sum of each query of a tile, over the keys seen so far.
struct Softmax {
  F16 top[kTile / kLanes], total[kTile / kLanes];
  float factor[kTile];  // for what was summed before the present tile of keys

  Softmax() : total{} {
    for (F16& best : top) {
      best = splat(kMasked);
    }
  }
};

// Takes out the scores of keys [key, key + keys) that lie outside of [first, last) of each of the
// sixteen queries of a strip.
void mask(float* scores, I16 first, I16 last, Index key, Index keys) {
  for (Index j = 0; j < keys; ++j, scores += kTile) {
    const I16 here = splat_index(key + j);
    const F16 score = load(scores);
    const I16 hidden = (here < first) | (here >= last);
    store(scores, hidden ? splat(kMasked) : score);
  }
}

// For each query of a strip: the largest of its scores over `keys` keys and of `given`.
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

// The online softmax of a strip: scores become words of P, those of one step of keys in the place
// of the first of them. factor: scale log2(e).
template <class Step>
void update_softmax(float* scores, Index strip, Softmax& softmax, Index keys, float factor) {
  F16& top = softmax.top[strip / kLanes];
  F16& total = softmax.total[strip / kLanes];
  const F16 best = largest(scores, keys, top);
  const F16 before = exp2((top - best) * factor);
  F16 sum{};
  for (Index j = 0; j < keys; j += Step::kElements) {
    F16 p[Step::kElements];
    for (Index e = 0; e < Step::kElements; ++e) {
      p[e] = j + e < keys ? exp2((load(scores + (j + e) * kTile) - best) * factor) : F16{};
      sum += p[e];
    }
    store_words(reinterpret_cast<Word*>(scores + j * kTile), Step::across(p));
  }
  store(softmax.factor + strip, before);
  total = total * before + sum;
  top = best;
}

// What was summed with the weights of a query, whose sum is total, becomes its row of the result;
// returns its lse. A query that saw nothing has sums of hidden keys: they do not count.
template <class A>
float write_row(float top, float total, const float* sums, float scale, A* out, Index dim) {
  const bool none = top <= kMasked;
  const float inverse = none ? 0.0F : 1.0F / total;
  for (Index c = 0; c < dim; c += kLanes) {
    store(out + c, none ? F16{} : load(sums + c, dim - c) * inverse, dim - c);
  }
  return none ? -__builtin_inff() : scale * top + __builtin_logf(total);
}

}  // namespace
}  // namespace moesaic::cpu::MOESAIC_ISA
