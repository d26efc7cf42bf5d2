#include "backend/cpu/kernels/paged_attention.h"

namespace moesaic::cpu::MOESAIC_ISA {

template <class A>
void paged_attention(const PagedHead<A>& head, Range queries, Range pages, const PagedSums& to,
                     float* scratch) {
  attend_pages<Fma>(head, queries, pages, to, scratch);
}

template void paged_attention(const PagedHead<float>&, Range, Range, const PagedSums&, float*);
template void paged_attention(const PagedHead<BFloat16>&, Range, Range, const PagedSums&, float*);

void join_paged(const PagedSums& next, float scale, Index queries, Index v_dim,
                const PagedSums& to) {
  const Index row = round_up(v_dim);
  const float factor = scale * kLog2E;
  float share[kTile];
  float next_share[kTile];
  for (Index i = 0; i < queries; i += kLanes) {
    const F16 top = load(to.top + i);
    const F16 next_top = load(next.top + i);
    const F16 best = max(top, next_top);
    const F16 here = exp2((top - best) * factor);
    const F16 there = exp2((next_top - best) * factor);
    store(to.top + i, best);
    store(to.total + i, load(to.total + i) * here + load(next.total + i) * there);
    store(share + i, here);
    store(next_share + i, there);
  }
  for (Index i = 0; i < queries; ++i) {
    for (Index c = i * row; c < (i + 1) * row; c += kLanes) {
      store(to.values + c, load(to.values + c) * share[i] + load(next.values + c) * next_share[i]);
    }
  }
}

template <class A>
void write_paged(const PagedHead<A>& head, Range queries, const PagedSums& from, A* out,
                 Index out_row, float* lse, Index lse_row) {
  for (Index i = 0; i < queries.end - queries.begin; ++i) {
    const Index row = (queries.begin + i) / head.heads;
    const Index query = (queries.begin + i) % head.heads;
    lse[row * lse_row + query] =
        write_row(from.top[i], from.total[i], from.values + i * round_up(head.v_dim), head.scale,
                  out + row * out_row + query * head.v_dim, head.v_dim);
  }
}

template void write_paged(const PagedHead<float>&, Range, const PagedSums&, float*, Index, float*,
                          Index);
template void write_paged(const PagedHead<BFloat16>&, Range, const PagedSums&, BFloat16*, Index,
                          float*, Index);

}  // namespace moesaic::cpu::MOESAIC_ISA
