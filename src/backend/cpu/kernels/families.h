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
void swiglu(const A* gate_up, A* y, Index rows, Index hidden);
template <class A>
void swiglu_backward(const A* dy, const A* gate_up, A* dgate_up, Index rows, Index hidden);
void softmax_stats(const float* logits, const std::int32_t* target, float* stats,
                   std::int32_t* best, Index rows, Index vocab);
template <class A>
void cross_entropy_backward(const float* logits, const std::int32_t* target, const float* stats,
                            float scale, A* dlogits, Index rows, Index vocab);
template <class A>
void adamw(const AdamWStep& step, const float* grad, float* value, float* exp_avg,
           float* exp_avg_sq, A* copy, Index n);

template <class A>
void rms_norm(const float* x, const float* weight, float eps, A* y, float* rstd, Index rows,
              Index dim);
void rms_norm_backward(const float* dy, const float* x, const float* weight, const float* rstd,
                       float* dx, float* dweight, Index rows, Index dim);
template <class A>
void rope(A* x, Index stride, Index heads, Index head_dim, const std::int32_t* position,
          const float* frequency, float sign, Index rows);

template <class A>
void attention(const AttentionHead<A>& head, Index begin, Index end, A* out, Index out_stride,
               float* lse, Index lse_stride, float* scratch);
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

}  // namespace moesaic::cpu::MOESAIC_ISA
