#include "backend/cuda/cuda_backend.h"

// For what has no kernel yet: weak, so that the function in the op's file is the one that is
// linked.
namespace moesaic::cuda {
namespace {

[[noreturn]] void missing(std::string_view what) {
  throw Error(Exit::kInternal, "cuda: no kernel yet for " + std::string(what));
}

}  // namespace

__attribute__((weak)) void CudaBackend::convert(const Tensor&, const Tensor&) {
  missing("convert");
}
__attribute__((weak)) void CudaBackend::add(const Tensor&, const Tensor&) { missing("add"); }
__attribute__((weak)) void CudaBackend::scale(const Tensor&, float) { missing("scale"); }
__attribute__((weak)) void CudaBackend::sums_of_squares(std::span<const Tensor>, const Tensor&) {
  missing("sums_of_squares");
}
__attribute__((weak)) void CudaBackend::matmul(const Tensor&, Transpose, const Tensor&, Transpose,
                                               const Tensor&, Write) {
  missing("matmul");
}
__attribute__((weak)) void CudaBackend::grouped_matmul(const Tensor&, const Tensor&, const Tensor&,
                                                       const Tensor&) {
  missing("grouped_matmul");
}
__attribute__((weak)) void CudaBackend::grouped_matmul_dx(const Tensor&, const Tensor&,
                                                          const Tensor&, const Tensor&) {
  missing("grouped_matmul_dx");
}
__attribute__((weak)) void CudaBackend::grouped_matmul_dw(const Tensor&, const Tensor&,
                                                          const Tensor&, const Tensor&) {
  missing("grouped_matmul_dw");
}
__attribute__((weak)) std::optional<DType> CudaBackend::inference_format(DType) const {
  missing("inference_format");
}
__attribute__((weak)) PackedWeights CudaBackend::pack(DType, const Tensor&, const Tensor&) {
  missing("pack");
}
__attribute__((weak)) void CudaBackend::unpack(const PackedWeights&, const Tensor&) {
  missing("unpack");
}
__attribute__((weak)) PackedWeights CudaBackend::load_codes(const Shape&,
                                                            std::span<const QuantizedRows>) {
  missing("load_codes");
}
__attribute__((weak)) QuantizedRows CudaBackend::codes_of(const PackedWeights&) {
  missing("codes_of");
}
__attribute__((weak)) void CudaBackend::packed_matmul(const Tensor&, const Tensor&,
                                                      const PackedWeights&, const Tensor&,
                                                      const Tensor&) {
  missing("packed_matmul");
}
__attribute__((weak)) void CudaBackend::block_peaks(const Tensor&, const ColumnSlice&,
                                                    const Tensor&) {
  missing("block_peaks");
}
__attribute__((weak)) void CudaBackend::embedding(const Tensor&, const Tensor&, const Tensor&) {
  missing("embedding");
}
__attribute__((weak)) void CudaBackend::embedding_backward(const Tensor&, const Tensor&,
                                                           const Tensor&) {
  missing("embedding_backward");
}
__attribute__((weak)) void CudaBackend::rms_norm(const Tensor&, const Tensor&, float, const Tensor&,
                                                 const Tensor&) {
  missing("rms_norm");
}
__attribute__((weak)) void CudaBackend::rms_norm_backward(const Tensor&, const Tensor&,
                                                          const Tensor&, const Tensor&,
                                                          const Tensor&, const Tensor&) {
  missing("rms_norm_backward");
}
__attribute__((weak)) void CudaBackend::rope(const Tensor&, const RowGroups&, const Tensor&,
                                             const Tensor&, const RopeOptions&, Direction) {
  missing("rope");
}
__attribute__((weak)) void CudaBackend::group_squares(const Tensor&, const RowGroups&,
                                                      const Tensor&) {
  missing("group_squares");
}
__attribute__((weak)) void CudaBackend::group_norm(const Tensor&, const RowGroups&, const Tensor&,
                                                   float, float, const Tensor&, const Tensor&) {
  missing("group_norm");
}
__attribute__((weak)) void CudaBackend::group_dots(const Tensor&, const Tensor&, const RowGroups&,
                                                   const Tensor&, const Tensor&) {
  missing("group_dots");
}
__attribute__((weak)) void CudaBackend::group_norm_backward(const Tensor&, const Tensor&,
                                                            const RowGroups&, const Tensor&,
                                                            const Tensor&, float, float,
                                                            const Tensor&, const Tensor&) {
  missing("group_norm_backward");
}
__attribute__((weak)) void CudaBackend::copy_groups(const Tensor&, const RowGroups&, const Tensor&,
                                                    const RowGroups&, Write) {
  missing("copy_groups");
}
__attribute__((weak)) void CudaBackend::clamp(const Tensor&, float) { missing("clamp"); }
__attribute__((weak)) void CudaBackend::clamp_backward(const Tensor&, const Tensor&, float) {
  missing("clamp_backward");
}
__attribute__((weak)) void CudaBackend::add_bias(const Tensor&, const Tensor&, const Tensor&) {
  missing("add_bias");
}
__attribute__((weak)) void CudaBackend::bias_backward(const Tensor&, const Tensor&, const Tensor&) {
  missing("bias_backward");
}
__attribute__((weak)) void CudaBackend::gate_rows(const Tensor&, const Tensor&) {
  missing("gate_rows");
}
__attribute__((weak)) void CudaBackend::gate_rows_backward(const Tensor&, const Tensor&,
                                                           const Tensor&, const Tensor&) {
  missing("gate_rows_backward");
}
__attribute__((weak)) void CudaBackend::attention(const HeadRows&, const KeyRows&,
                                                  const VisibleKeys&, float, const Tensor&,
                                                  const Tensor&) {
  missing("attention");
}
__attribute__((weak)) void CudaBackend::attention_part(const HeadRows&, const KeyRows&,
                                                       const VisibleKeys&, float,
                                                       const AttentionSums&, Write) {
  missing("attention_part");
}
__attribute__((weak)) void CudaBackend::merge_attention(const AttentionSums&, float,
                                                        const AttentionSums&) {
  missing("merge_attention");
}
__attribute__((weak)) void CudaBackend::attention_result(const AttentionSums&, float, const Tensor&,
                                                         const Tensor&) {
  missing("attention_result");
}
__attribute__((weak)) void CudaBackend::attention_backward(const Tensor&, const HeadRows&,
                                                           const KeyRows&, const VisibleKeys&,
                                                           float, const Tensor&, const Tensor&,
                                                           const AttentionGradients&, Write) {
  missing("attention_backward");
}
__attribute__((weak)) void CudaBackend::add_sinks(const Tensor&, const Tensor&, const Tensor&) {
  missing("add_sinks");
}
__attribute__((weak)) void CudaBackend::sinks_backward(const Tensor&, const Tensor&, const Tensor&,
                                                       const Tensor&, const Tensor&) {
  missing("sinks_backward");
}
__attribute__((weak)) void CudaBackend::store_in_pages(const Tensor&, const RowGroups&,
                                                       const PagedRuns&, const Tensor&) {
  missing("store_in_pages");
}
__attribute__((weak)) void CudaBackend::attention(const HeadRows&, const KeyPages&,
                                                  const VisibleKeys&, float, const Tensor&,
                                                  const Tensor&) {
  missing("attention");
}
__attribute__((weak)) void CudaBackend::swiglu(const Tensor&, float, const Tensor&) {
  missing("swiglu");
}
__attribute__((weak)) void CudaBackend::swiglu_backward(const Tensor&, const Tensor&, float,
                                                        const Tensor&) {
  missing("swiglu_backward");
}
__attribute__((weak)) void CudaBackend::route(const RouteOptions&, const RouteTensors&) {
  missing("route");
}
__attribute__((weak)) void CudaBackend::route_weights(const RouteOptions&, const Tensor&,
                                                      const Tensor&, const Tensor&) {
  missing("route_weights");
}
__attribute__((weak)) void CudaBackend::route_backward(const RouteOptions&, const RouteTensors&,
                                                       const Tensor&, const Tensor&, const Tensor&,
                                                       float, const Tensor&) {
  missing("route_backward");
}
__attribute__((weak)) void CudaBackend::gather_rows(const Tensor&, const Tensor&, const Tensor&) {
  missing("gather_rows");
}
__attribute__((weak)) void CudaBackend::combine_rows(const Tensor&, const Tensor&, const Tensor&,
                                                     const Tensor&) {
  missing("combine_rows");
}
__attribute__((weak)) void CudaBackend::combine_rows_backward(const Tensor&, const Tensor&,
                                                              const Tensor&, const Tensor&,
                                                              const Tensor&, const Tensor&) {
  missing("combine_rows_backward");
}
__attribute__((weak)) void CudaBackend::softmax_stats(const Tensor&, const Tensor&, const Tensor&,
                                                      const Tensor&) {
  missing("softmax_stats");
}
__attribute__((weak)) void CudaBackend::divergence(const Tensor&, const Tensor&, const Tensor&,
                                                   const Tensor&) {
  missing("divergence");
}
__attribute__((weak)) void CudaBackend::cross_entropy_backward(const Tensor&, const Tensor&,
                                                               const Tensor&, const Tensor&,
                                                               const Tensor&, const Tensor&) {
  missing("cross_entropy_backward");
}
__attribute__((weak)) void CudaBackend::adamw(std::span<const AdamWTensors>) { missing("adamw"); }
__attribute__((weak)) void CudaBackend::drop_overflow(const Tensor&, const Tensor&, std::int64_t,
                                                      const Tensor&, const Tensor&) {
  missing("drop_overflow");
}
__attribute__((weak)) void CudaBackend::lay_rows(const Tensor&, const Tensor&, const Tensor&,
                                                 const Tensor&, const Tensor&) {
  missing("lay_rows");
}
__attribute__((weak)) void CudaBackend::aux_gradient(const Tensor&, const Tensor&, const Tensor&,
                                                     const AuxScale&, const Tensor&) {
  missing("aux_gradient");
}

}  // namespace moesaic::cuda
