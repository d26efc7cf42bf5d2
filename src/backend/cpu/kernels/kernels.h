#pragma once

#include <cstddef>
#include <cstdint>

#include "backend/packed_layout.h"
#include "tensor/bf16.h"

// The inner loops of the CPU backend: serial, over raw pointers, a range of rows at a time. The
// backend spreads ranges over threads. A: float or BFloat16, the compute dtype.
namespace moesaic::cpu {

using Index = std::int64_t;

struct Range {
  Index begin, end;
};

/// Beyond all positions.
constexpr Index kNoFork = Index{1} << 40;

/// One head's slice of attention: queries from row 0 on, keys and values of positions keys.begin
/// on; rows are so many elements apart.
template <class A>
struct AttentionHead {
  const A* q;
  Index q_stride;
  const A* k;
  Index k_stride;
  const A* v;
  Index v_stride;
  const std::int32_t *first, *last;  // of each query: it sees positions [first, last)
  Range keys;                        // positions that are there
  Index head_dim, v_dim;             // head_dim of q and k, v_dim of v and out
  float scale;
  // Forward: the positions that the queries of a call see, all together. Tiles of keys are counted
  // from origin. Keys from fork on lie `jump` rows after their places.
  Range seen = {0, 0};
  Index origin = 0, fork = kNoFork, jump = 0;
};

/// Results of the queries of a head, from query 0 on; or, with values, sums of them over a part of
/// the keys: begun here, or taken further.
template <class A>
struct AttentionParts {
  A* out;
  Index out_row;
  float* lse;
  Index lse_row;
  float* values = nullptr;
  Index values_row = 0;
  float *top = nullptr, *total = nullptr;
  Index sums_row = 0;
  bool begins = true;
};

/// What sixteen neighbouring queries see: the least and the most of their ranges.
struct StripRange {
  std::int32_t least_first, most_first, least_last, most_last;
};

/// What the backward pass of a head reads and writes for some of the keys (positions) and queries,
/// whose ranges begin at tiles, counted from the first key that is there and from query 0. dq, or
/// dk and dv, may be null: they are not computed then.
template <class A>
struct AttentionGradient {
  const A* dout;
  const A* out;
  Index out_stride;
  const float* lse;
  Index lse_stride;
  const StripRange* strips;  // of all queries
  Range keys, queries;
  A* dq;          // written; or
  float* dq_sum;  // added to
  Index dq_stride;
  float* dk;  // (keys, padded head_dim): added to
  float* dv;  // (keys, padded v_dim): added to

  bool wants_dq() const { return dq != nullptr || dq_sum != nullptr; }
};

/// Groups of elements in the rows of a matrix (RowGroups); row: from one row to the next.
struct Groups {
  Index row, first, groups, stride, width;
};

struct Rotation {
  bool interleave;  // pairs are neighbours, not half a width apart
  float magnitude, sign;
};

struct GroupNorm {
  const float* weight;  // (width)
  float count, eps;
};

/// Queries of neighbouring tokens of one sequence, and the one key head in pages that they share.
template <class A>
struct PagedHead {
  const A* q;               // of the first row
  Index q_row, q_head;      // from one row to the next, from one head to the next
  Index heads;              // queries of a row
  const A *keys, *values;   // of this head in page 0
  Index key_page, key_row;  // from one page to the next, from one key to the next
  Index value_page, value_row;
  const std::int32_t* pages;         // of the sequence
  const std::int32_t *first, *last;  // of each row: it sees positions [first, last)
  Index head_dim, v_dim;
  float scale;
};

/// Partial softmax of a tile of queries over some of their keys: top, the largest score; total, the
/// sum of exp(scale (score - top)); values, the sum of the values with these weights.
struct PagedSums {
  float* values;       // (kAttentionTile, padded_head(v_dim))
  float *top, *total;  // (kAttentionTile)
};

struct RouteRow {
  Index experts, top_k, candidates, groups, top_groups, group_best;
  float threshold, temperature;
  bool sigmoid, normalize;
  float scale;
};

/// The tensors of a router's call (RouteTensors) from some row on. `added` and `segment` may be
/// null; shares and sums are added to.
struct RouteRows {
  const std::int32_t* state;
  const float* bias;
  const float* added;
  const std::int32_t* segment;
  float *logits, *scores, *selection;
  std::int32_t* choice;
  float* weight;
  double *shares, *sums;
};

struct AdamWStep {
  float lr, beta1, beta2, eps, weight_decay, correction1, correction2, grad_scale;
};

/// c (m, n) = op(a) op(b), or added to c. a is (m, k) with rows of lda, or (k, m) if ta; b is (k,
/// n) or, if tb, (n, k).
template <class A, class C>
struct Gemm {
  const A* a;
  Index lda;
  bool ta;
  const A* b;
  Index ldb;
  bool tb;
  C* c;
  Index ldc;
  Index m, n, k;
  bool add;
};

template <class A>
struct Kernels {
  // scratch: gemm_scratch bytes on a border of 64.
  void (*gemm)(const Gemm<A, A>& gemm, void* scratch);
  void (*gemm_to_f32)(const Gemm<A, float>& gemm, void* scratch);
  void (*from_float)(const float* x, A* y, Index n);
  void (*to_float)(const A* x, float* y, Index n);
  void (*rms_norm)(const float* x, const float* weight, float eps, A* y, float* rstd, Index rows,
                   Index dim);
  void (*rope)(A* x, const Groups& heads, const std::int32_t* position, const float* frequency,
               const Rotation& rotation, Index rows);
  void (*group_squares)(const A* x, const Groups& groups, float* squares, Index rows);
  void (*group_norm)(const A* x, const Groups& groups, const float* squares, const GroupNorm& norm,
                     A* y, Index rows);
  void (*group_dots)(const A* dy, const A* x, const Groups& groups, const float* weight,
                     float* dots, Index rows);
  // In place; dweight is added to.
  void (*group_norm_backward)(A* dy, const A* x, const Groups& groups, const float* squares,
                              const float* dots, const GroupNorm& norm, float* dweight, Index rows);
  void (*copy_groups)(const A* from, const Groups& source, A* to, const Groups& target, bool add,
                      Index rows);
  void (*groups_from_float)(const float* from, const Groups& source, A* to, const Groups& target,
                            bool add, Index rows);
  void (*groups_to_float)(const A* from, const Groups& source, float* to, const Groups& target,
                          bool add, Index rows);
  void (*clamp)(A* x, float limit, Index n);
  void (*clamp_backward)(A* dy, const A* x, float limit, Index n);
  void (*add_bias)(A* y, const float* bias, Index rows, Index dim);
  // dbias (dim) += the sum of dy over its rows, which are `row` elements apart.
  void (*bias_backward)(const A* dy, Index row, float* dbias, Index rows, Index dim);
  void (*gate_rows)(A* x, const float* logit, Index rows, Index dim);
  void (*gate_rows_backward)(A* dy, const A* y, const float* logit, float* dlogit, Index rows,
                             Index dim);
  void (*add_sinks)(const float* sinks, A* out, float* lse, Index rows, Index heads, Index dim);
  // dsinks (heads) is added to.
  void (*sinks_backward)(const A* dout, const A* out, const float* lse, const float* sinks,
                         float* dsinks, Index rows, Index heads, Index dim);
  // limit: 0: plain SwiGLU.
  void (*swiglu)(const A* gate_up, float limit, A* y, Index rows, Index hidden);
  void (*swiglu_backward)(const A* dy, const A* gate_up, float limit, A* dgate_up, Index rows,
                          Index hidden);
  // Queries of one origin, fork and jump. scratch: attention_scratch floats for the keys that they
  // see, from the tile of the first one to that of the last.
  void (*attention)(const AttentionHead<A>& head, Range queries, const AttentionParts<A>& parts,
                    float* scratch);
  // One row of the result of sums over all keys; returns its lse.
  float (*finish_attention)(float top, float total, const float* values, float scale, A* out,
                            Index v_dim);
  // scratch: attention_backward_scratch floats.
  void (*attention_backward)(const AttentionHead<A>& head, const AttentionGradient<A>& gradient,
                             float* scratch);
  // At most kAttentionTile queries of neighbouring rows, those of each row after each other, over
  // their keys in some pages of the sequence. scratch: paged_scratch floats.
  void (*paged_attention)(const PagedHead<A>& head, Range queries, Range pages, const PagedSums& to,
                          float* scratch);
  // The sums over all keys become results; out and lse point at query 0.
  void (*write_paged)(const PagedHead<A>& head, Range queries, const PagedSums& from, A* out,
                      Index out_row, float* lse, Index lse_row);
  void (*combine)(const A* rows, const std::int32_t* position, const float* weight, float* y,
                  Index tokens, Index k, Index dim);
  void (*combine_backward)(const float* dy, const A* rows, const std::int32_t* position,
                           const float* weight, A* drows, float* dweight, Index tokens, Index k,
                           Index dim);
  // stats: (rows, 3) as softmax_stats gives them.
  void (*cross_entropy_backward)(const float* logits, const std::int32_t* target,
                                 const float* stats, const float* weight, A* dlogits, float* spread,
                                 Index rows, Index vocab);
  void (*adamw)(const AdamWStep& step, const float* grad, float* value, float* exp_avg,
                float* exp_avg_sq, A* copy, Index n);
  void (*adamw_bf16)(const AdamWStep& step, const float* grad, float* value, BFloat16* exp_avg,
                     BFloat16* exp_avg_sq, A* copy, Index n);  // moments in bf16
};

/// What does not depend on the compute dtype.
struct CommonKernels {
  void (*add)(const float* x, float* inout, Index n);
  double (*sum_of_squares)(const float* x, Index n);
  // dweight (dim) is added to.
  void (*rms_norm_backward)(const float* dy, const float* x, const float* weight, const float* rstd,
                            float* dx, float* dweight, Index rows, Index dim);
  void (*softmax_stats)(const float* logits, const std::int32_t* target, float* stats,
                        std::int32_t* best, Index rows, Index vocab);
  // log_sums: (rows, 2).
  void (*divergence)(const float* reference, const float* logits, const float* log_sums,
                     float* divergence, Index rows, Index vocab);
  // The sums over more keys, `next`, are joined to those so far.
  void (*join_paged)(const PagedSums& next, float scale, Index queries, Index v_dim,
                     const PagedSums& to);
  void (*route)(const RouteRow& row, const RouteRows& rows, Index tokens);
  void (*route_weights)(const RouteRow& row, const float* scores, const std::int32_t* choice,
                        float* weight, Index tokens);
  void (*route_backward)(const RouteRow& row, const RouteRows& rows, const std::int32_t* choice,
                         const float* dweight, const float* daux, float dz, float* dlogits,
                         Index tokens);
};

/// Rows of x as products with packed weights read them: in tiles of some rows each, as numbers of
/// the kind of the weights; integers with a scale and a sum for each block of kPackedBlock.
struct PackedRows {
  std::uint32_t* words;  // (rows, packed_depth(columns)) numbers
  float* scale;          // (rows, blocks)
  std::int32_t* sum;     // (rows, blocks)
};

/// x (rows, columns), the columns from `before` on of `all`, the others being 0.
template <class A>
struct PackedSource {
  const A* x;
  Index rows, columns, before, all;
  // The bits of the largest absolute value in each block of all columns, a row every peak_stride;
  // nullptr: as they are in x.
  const std::int32_t* peaks;
  Index peak_stride;
};

/// y (rows, n) = x w^T for some panels of w, from panel 0 on, whose columns of y begin at y.
template <class C>
struct PackedProduct {
  PackedRows x;
  Index rows, columns;
  const std::byte* w;
  Index panels;
  C* y;
  Index ldy, n;
};

/// Products with packed weights of one format. The rows of a group are laid out once, in tiles,
/// and multiplied with any panels after that.
struct PackedKernels {
  Index number_bytes;  // of each of the packed_depth(columns) numbers of a row that is laid out
  Index (*tiles)(Index rows);
  Index (*padded_rows)(Index rows);  // that the tiles have
  // Some tiles of x. For weights in bf16 x has all columns.
  void (*rows_of_f32)(const PackedSource<float>& x, const PackedRows& to, Range tiles);
  void (*rows_of_bf16)(const PackedSource<BFloat16>& x, const PackedRows& to, Range tiles);
  // scratch: packed_scratch bytes on a border of 64, for int4.
  void (*to_f32)(const PackedProduct<float>& product, void* scratch);
  void (*to_bf16)(const PackedProduct<BFloat16>& product, void* scratch);
};

/// Rows of w (rows, columns) that become one panel (packed_layout.h); rows <= kPackedRows.
/// mean_squares (columns): weights of the squared errors along k, for four bits; null: all the
/// same.
struct PanelSource {
  const float* w;
  Index rows, columns;
  const float* mean_squares;
};

/// Panels from numbers, and back.
struct PanelKernels {
  // bf16: rounded to nearest. int8: d = max |w| / 127 over a block. int4: of each group the s and m
  // with the least sum of mean_squares (w - rounded w)^2, found by trying some s near range / 15,
  // for three d near max |w| / 127. All numbers must be finite. out: packed_panel_bytes.
  void (*pack)(DType format, const PanelSource& source, std::byte* out);
  // w (rows, columns): what the panel stands for, exactly.
  void (*unpack)(DType format, const std::byte* panel, Index rows, Index columns, float* w);
};

/// Panels that a thread takes at least.
constexpr Index kPackedPanels = 4;
/// Bytes for panels of int8 that were int4.
constexpr Index packed_scratch(Index columns) {
  return kPackedPanels * packed_panel_bytes(DType::kInt8, columns);
}

/// Queries of a tile of attention.
constexpr Index kAttentionTile = 64;
constexpr Index padded_head(Index head_dim) { return (head_dim + 15) / 16 * 16; }
/// Floats of scratch that attention needs for so many keys in whole tiles, and its backward for so
/// many queries.
constexpr Index attention_scratch(Index keys, Index head_dim, Index v_dim) {
  return kAttentionTile * kAttentionTile +
         (kAttentionTile + keys) * (padded_head(head_dim) + padded_head(v_dim));
}
constexpr Index attention_backward_scratch(Index queries, Index head_dim, Index v_dim) {
  const Index both = padded_head(head_dim) + padded_head(v_dim);
  return 5 * kAttentionTile * kAttentionTile / 2 + kAttentionTile * (padded_head(head_dim) + both) +
         (queries + 1) / 2 * 3 * both + queries * padded_head(head_dim) + (queries + 15) / 16 * 16;
}

/// Floats of scratch of paged attention, and of its PagedSums.
constexpr Index paged_scratch(Index head_dim, Index v_dim) {
  return kAttentionTile * (kAttentionTile + 2 * padded_head(head_dim) + padded_head(v_dim));
}
constexpr Index paged_sums(Index v_dim) { return kAttentionTile * (padded_head(v_dim) + 2); }

/// Words of 4 bytes in the buffers of a product: panels of b, packed rows of a, results of one row
/// of tiles. So many panels at most are packed at once.
constexpr Index kGemmPanelWords = Index{1} << 18;
constexpr Index kGemmRowWords = Index{1} << 16;
constexpr Index kGemmTileWords = Index{1} << 13;
constexpr Index kGemmPanels = 16;
/// Columns of the widest panel.
constexpr Index kGemmColumns = 32;
/// Bytes of scratch for sums of k terms.
constexpr Index gemm_scratch(Index k) {
  const Index panel = k * kGemmColumns;
  return 4 * (kGemmTileWords + kGemmRowWords + (panel < kGemmPanelWords ? kGemmPanelWords : panel));
}

/// The kernels that every instruction set has (table.cpp).
struct KernelSet {
  const Kernels<float>* f32;
  const Kernels<BFloat16>* bf16;
  const CommonKernels* common;
  const PackedKernels *packed_bf16, *packed_int8, *packed_int4;
};

namespace portable {
KernelSet kernels();
const PanelKernels& panels();
}  // namespace portable
namespace avx2 {
KernelSet kernels();
const PanelKernels& panels();
}  // namespace avx2
namespace avx512 {
KernelSet kernels();
}  // namespace avx512
namespace avx512bf16 {
/// Replaces the products of bf16 by those with bf16 dot products.
void replace_products(Kernels<BFloat16>& kernels);
const PackedKernels& packed_bf16();
}  // namespace avx512bf16
namespace avx512vnni {
const PackedKernels& packed_int8();
const PackedKernels& packed_int4();
}  // namespace avx512vnni

}  // namespace moesaic::cpu
