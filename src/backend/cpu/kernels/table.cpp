#include "backend/cpu/kernels/instruction_set_kernels.h"

namespace moesaic::cpu::MOESAIC_ISA {
namespace {

template <class A>
constexpr Kernels<A> kKernels = {
    .gemm = gemm<A, A>,
    .gemm_to_f32 = gemm<A, float>,
    .from_float = from_float<A>,
    .to_float = to_float<A>,
    .rms_norm = rms_norm<A>,
    .rope = rope<A>,
    .group_squares = group_squares<A>,
    .group_norm = group_norm<A>,
    .group_dots = group_dots<A>,
    .group_norm_backward = group_norm_backward<A>,
    .copy_groups = copy_groups<A, A>,
    .groups_from_float = copy_groups<float, A>,
    .groups_to_float = copy_groups<A, float>,
    .clamp = clamp<A>,
    .clamp_backward = clamp_backward<A>,
    .add_bias = add_bias<A>,
    .bias_backward = bias_backward<A>,
    .gate_rows = gate_rows<A>,
    .gate_rows_backward = gate_rows_backward<A>,
    .add_sinks = add_sinks<A>,
    .sinks_backward = sinks_backward<A>,
    .swiglu = swiglu<A>,
    .swiglu_backward = swiglu_backward<A>,
    .attention = attention<A>,
    .finish_attention = finish_attention<A>,
    .attention_backward = attention_backward<A>,
    .paged_attention = paged_attention<A>,
    .write_paged = write_paged<A>,
    .combine = combine<A>,
    .combine_backward = combine_backward<A>,
    .cross_entropy_backward = cross_entropy_backward<A>,
    .adamw = adamw<A, float>,
    .adamw_bf16 = adamw<A, BFloat16>,
};

constexpr CommonKernels kCommon = {
    .add = add,
    .sum_of_squares = sum_of_squares,
    .rms_norm_backward = rms_norm_backward,
    .softmax_stats = softmax_stats,
    .divergence = divergence,
    .join_paged = join_paged,
    .route = route,
    .route_weights = route_weights,
    .route_backward = route_backward,
};

}  // namespace

KernelSet kernels() {
  return {.f32 = &kKernels<float>,
          .bf16 = &kKernels<BFloat16>,
          .common = &kCommon,
          .packed_bf16 = &packed_bf16(),
          .packed_int8 = &packed_int8(),
          .packed_int4 = &packed_int4()};
}

}  // namespace moesaic::cpu::MOESAIC_ISA
