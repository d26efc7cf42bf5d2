// Attention of single rows to keys in pages, with an online softmax over the pages (Dao et al.
// 2022; pages: Kwon et al. 2023). For the keys of a page:  s = scale K q,  m' = max(m, max s),
//   p = exp(s - m'),  l = l exp(m - m') + sum p,  o = o exp(m - m') + p^T V;
// at the end o / l and lse = m + log l. Pages begin at fixed positions of the sequence, so that a
// row's sums have one order, however the rows before it were computed.
#include "backend/cpu/kernels/families.h"
#include "backend/cpu/kernels/simd.h"

namespace moesaic::cpu::MOESAIC_ISA {
namespace {

constexpr Index kPage = kAttentionTile;
constexpr float kMasked = -1e30F;

// Of one query on its way through the pages.
struct Softmax {
  float top, total;
};

// Of the keys [first, end) of a page; the others are masked.
template <class A>
void score(const A* key, Index row, const float* q, Index dim, Range seen, float* scores) {
  for (Index j = 0; j < kPage; ++j) {
    scores[j] = kMasked;
  }
  for (Index j = seen.begin; j < seen.end; ++j) {
    F16 products{};
    for (Index c = 0; c < dim; c += kLanes) {
      products += load(q + c) * load(key + j * row + c, dim - c);
    }
    scores[j] = sum(products);
  }
}

// Scores become exp(s - m'); returns exp(m - m').
float update(Softmax& softmax, float* scores) {
  F16 best = splat(softmax.top);
  for (Index j = 0; j < kPage; j += kLanes) {
    best = max(load(scores + j), best);
  }
  const float top = max(best);
  F16 total{};
  for (Index j = 0; j < kPage; j += kLanes) {
    const F16 p = exp(load(scores + j) - top);
    store(scores + j, p);
    total += p;
  }
  const float factor = exp(softmax.top - top);
  softmax.total = softmax.total * factor + sum(total);
  softmax.top = top;
  return factor;
}

template <class A>
void add_values(const A* value, Index row, const float* p, Range seen, Index dim, float factor,
                float* sums) {
  for (Index c = 0; c < dim; c += kLanes) {
    F16 sum = load(sums + c) * factor;
    for (Index j = seen.begin; j < seen.end; ++j) {
      sum += load(value + j * row + c, dim - c) * p[j];
    }
    store(sums + c, sum);
  }
}

}  // namespace

template <class A>
void paged_attention(const PagedHead<A>& head, Index rows, A* out, Index out_stride, float* lse,
                     Index lse_stride, float* scratch) {
  const Index padded = round_up(head.head_dim);
  const Index v_padded = round_up(head.v_dim);
  float* const scores = scratch;
  float* const q = scores + kPage;
  float* const sums = q + padded;
  for (Index i = 0; i < rows * head.heads; ++i) {
    const Index row = i / head.heads;
    const Index h = i % head.heads;
    const Index last = head.position + row;
    const Index first = head.window > 0 ? larger(0, last - head.window + 1) : 0;
    for (Index c = 0; c < head.head_dim; c += kLanes) {
      const A* const from = head.q + row * head.q_stride + h * head.head_dim + c;
      store(q + c, load(from, head.head_dim - c) * head.scale);
    }
    std::memset(sums, 0, static_cast<std::size_t>(v_padded) * sizeof(float));
    Softmax softmax{kMasked, 0.0F};
    for (Index page = first / kPage; page <= last / kPage; ++page) {
      const Range seen{larger(0, first - page * kPage), smaller(kPage, last + 1 - page * kPage)};
      const A* const keys = head.keys + head.pages[page] * head.key_page;
      const A* const values = head.values + head.pages[page] * head.value_page;
      score(keys, head.key_row, q, head.head_dim, seen, scores);
      const float factor = update(softmax, scores);
      add_values(values, head.value_row, scores, seen, head.v_dim, factor, sums);
    }
    const float inverse = 1.0F / softmax.total;
    A* const to = out + row * out_stride + h * head.v_dim;
    for (Index c = 0; c < head.v_dim; c += kLanes) {
      store(to + c, load(sums + c) * inverse, head.v_dim - c);
    }
    lse[row * lse_stride + h] = softmax.top + __builtin_logf(softmax.total);
  }
}
template void paged_attention(const PagedHead<float>&, Index, float*, Index, float*, Index, float*);
template void paged_attention(const PagedHead<BFloat16>&, Index, BFloat16*, Index, float*, Index,
                              float*);

}  // namespace moesaic::cpu::MOESAIC_ISA
