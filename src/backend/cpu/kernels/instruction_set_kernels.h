#pragma once

#include "backend/cpu/kernels/kernels.h"

// What the files of this folder define for one instruction set; table.cpp collects it. The
// signatures are documented in kernels.h.
namespace moesaic::cpu::MOESAIC_ISA {

template <class A, class C>
void gemm(const Gemm<A, C>& gemm, void* scratch);

template <class A>
void from_float(const float* x, A* y, Index n);
template <class A>
void to_float(const A* x, float* y, Index n);
void add(const float* x, float* inout, Index n);
double sum_of_squares(const float* x, Index n);
template <class A>
void swiglu(const A* gate_up, float limit, A* y, Index rows, Index hidden);
template <class A>
void swiglu_backward(const A* dy, const A* gate_up, float limit, A* dgate_up, Index rows,
                     Index hidden);
void softmax_stats(const float* logits, const std::int32_t* target, float* stats,
                   std::int32_t* best, Index rows, Index vocab);
void divergence(const float* reference, const float* logits, const float* log_sums,
                float* divergence, Index rows, Index vocab);
template <class A>
void cross_entropy_backward(const float* logits, const std::int32_t* target, const float* stats,
                            const float* weight, A* dlogits, float* spread, Index rows,
                            Index vocab);
template <class A, class M>
void adamw(const AdamWStep& step, const float* grad, float* value, M* exp_avg, M* exp_avg_sq,
           A* copy, Index n);

template <class A>
void rms_norm(const float* x, const float* weight, float eps, A* y, float* rstd, Index rows,
              Index dim);
void rms_norm_backward(const float* dy, const float* x, const float* weight, const float* rstd,
                       float* dx, float* dweight, Index rows, Index dim);
template <class A>
void rope(A* x, const Groups& heads, const std::int32_t* position, const float* frequency,
          const Rotation& rotation, Index rows);
template <class A>
void group_squares(const A* x, const Groups& groups, float* squares, Index rows);
template <class A>
void group_norm(const A* x, const Groups& groups, const float* squares, const GroupNorm& norm, A* y,
                Index rows);
template <class A>
void group_dots(const A* dy, const A* x, const Groups& groups, const float* weight, float* dots,
                Index rows);
template <class A>
void group_norm_backward(A* dy, const A* x, const Groups& groups, const float* squares,
                         const float* dots, const GroupNorm& norm, float* dweight, Index rows);
template <class A, class B>
void copy_groups(const A* from, const Groups& source, B* to, const Groups& target, bool add,
                 Index rows);
template <class A>
void clamp(A* x, float limit, Index n);
template <class A>
void clamp_backward(A* dy, const A* x, float limit, Index n);

template <class A>
void add_bias(A* y, const float* bias, Index rows, Index dim);
template <class A>
void bias_backward(const A* dy, Index row, float* dbias, Index rows, Index dim);
template <class A>
void gate_rows(A* x, const float* logit, Index rows, Index dim);
template <class A>
void gate_rows_backward(A* dy, const A* y, const float* logit, float* dlogit, Index rows,
                        Index dim);
template <class A>
void add_sinks(const float* sinks, A* out, float* lse, Index rows, Index heads, Index dim);
template <class A>
void sinks_backward(const A* dout, const A* out, const float* lse, const float* sinks,
                    float* dsinks, Index rows, Index heads, Index dim);

template <class A>
void attention(const AttentionHead<A>& head, Range queries, const AttentionParts<A>& parts,
               float* scratch);
template <class A>
float finish_attention(float top, float total, const float* values, float scale, A* out,
                       Index v_dim);
template <class A>
void paged_attention(const PagedHead<A>& head, Range queries, Range pages, const PagedSums& to,
                     float* scratch);
void join_paged(const PagedSums& next, float scale, Index queries, Index v_dim,
                const PagedSums& to);
template <class A>
void write_paged(const PagedHead<A>& head, Range queries, const PagedSums& from, A* out,
                 Index out_row, float* lse, Index lse_row);
template <class A>
void attention_backward(const AttentionHead<A>& head, const AttentionGradient<A>& gradient,
                        float* scratch);

template <class A>
void combine(const A* rows, const std::int32_t* position, const float* weight, float* y,
             Index tokens, Index k, Index dim);
template <class A>
void combine_backward(const float* dy, const A* rows, const std::int32_t* position,
                      const float* weight, A* drows, float* dweight, Index tokens, Index k,
                      Index dim);
void route(const RouteRow& row, const RouteRows& rows, Index tokens);
void route_weights(const RouteRow& row, const float* scores, const std::int32_t* choice,
                   float* weight, Index tokens);
void route_backward(const RouteRow& row, const RouteRows& rows, const std::int32_t* choice,
                    const float* dweight, const float* daux, float dz, float* dlogits,
                    Index tokens);

const PackedKernels& packed_bf16();
const PackedKernels& packed_int8();
const PackedKernels& packed_int4();

}  // namespace moesaic::cpu::MOESAIC_ISA
