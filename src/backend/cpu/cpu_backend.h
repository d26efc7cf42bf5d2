#pragma once

#include <omp.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <span>

#include "backend/backend.h"
#include "backend/cpu/instruction_set.h"
#include "backend/cpu/matmul.h"
#include "backend/memory_pool.h"

namespace moesaic::cpu {

/// The kernels on the host. OpenMP threads work on contiguous ranges, so that a result depends on
/// the number of threads alone, and that of a product not even on it.
class CpuBackend : public Backend {
 public:
  CpuBackend(int threads, InstructionSet set);

  /// By tensors, and in reserve for the next ones.
  std::size_t bytes_held() const { return memory_pool_.bytes_held(); }

  std::string_view name() const override { return set_.name; }
  Tensor empty(DType dtype, const Shape& shape) override;
  void upload(std::span<const std::byte> host, const Tensor& to) override;
  void download(std::span<const Download> parts) override;
  using Backend::download;
  void synchronize() override { count_waits(); }
  Mark mark() override { return {.time = std::chrono::steady_clock::now(), .event = {}}; }
  double seconds(const Mark& from, const Mark& to) override {
    return std::chrono::duration<double>(to.time - from.time).count();
  }
  void release_reserve() override { memory_pool_.release_reserve(); }

  void zero(const Tensor& x) override;
  void convert(const Tensor& from, const Tensor& to) override;
  void add(const Tensor& x, const Tensor& inout) override;
  void scale(const Tensor& inout, float factor) override;
  void sums_of_squares(std::span<const Tensor> x, const Tensor& sums) override;

  void matmul(const Tensor& a, Transpose ta, const Tensor& b, Transpose tb, const Tensor& c,
              Write write) override;
  void grouped_matmul(const Tensor& x, const Tensor& offsets, const Tensor& w,
                      const Tensor& y) override;
  void grouped_matmul_dx(const Tensor& dy, const Tensor& offsets, const Tensor& w,
                         const Tensor& dx) override;
  void grouped_matmul_dw(const Tensor& dy, const Tensor& x, const Tensor& offsets,
                         const Tensor& dw) override;
  std::optional<DType> inference_format(DType compute) const override {
    const bool packed = compute == DType::kBf16 && set_.bf16_dot;
    return packed ? std::optional(DType::kBf16) : std::nullopt;
  }
  PackedWeights pack(DType format, const Tensor& w, const Tensor& mean_squares) override;
  void unpack(const PackedWeights& packed, const Tensor& w) override;
  PackedWeights load_codes(const Shape& shape, std::span<const QuantizedRows> rows) override;
  QuantizedRows codes_of(const PackedWeights& packed) override;
  void packed_matmul(const Tensor& x, const Tensor& offsets, const PackedWeights& w,
                     const Tensor& y, const Tensor& peaks) override;
  void block_peaks(const Tensor& x, const ColumnSlice& slice, const Tensor& peaks) override;

  void embedding(const Tensor& table, const Tensor& token, const Tensor& y) override;
  void embedding_backward(const Tensor& dy, const Tensor& token, const Tensor& dtable) override;
  void rms_norm(const Tensor& x, const Tensor& weight, float eps, const Tensor& y,
                const Tensor& rstd) override;
  void rms_norm_backward(const Tensor& dy, const Tensor& x, const Tensor& weight,
                         const Tensor& rstd, const Tensor& dx, const Tensor& dweight) override;
  void rope(const Tensor& x, const RowGroups& heads, const Tensor& position,
            const Tensor& frequency, const RopeOptions& options, Direction direction) override;
  void group_squares(const Tensor& x, const RowGroups& groups, const Tensor& squares) override;
  void group_norm(const Tensor& x, const RowGroups& groups, const Tensor& squares, float count,
                  float eps, const Tensor& weight, const Tensor& y) override;
  void group_dots(const Tensor& dy, const Tensor& x, const RowGroups& groups, const Tensor& weight,
                  const Tensor& dots) override;
  void group_norm_backward(const Tensor& dy, const Tensor& x, const RowGroups& groups,
                           const Tensor& squares, const Tensor& dots, float count, float eps,
                           const Tensor& weight, const Tensor& dweight) override;
  void copy_groups(const Tensor& from, const RowGroups& source, const Tensor& to,
                   const RowGroups& target, Write write) override;
  void clamp(const Tensor& inout, float limit) override;
  void clamp_backward(const Tensor& dy, const Tensor& x, float limit) override;
  void add_bias(const Tensor& y, const Tensor& offsets, const Tensor& bias) override;
  void bias_backward(const Tensor& dy, const Tensor& offsets, const Tensor& dbias) override;
  void gate_rows(const Tensor& x, const Tensor& logit) override;
  void gate_rows_backward(const Tensor& dy, const Tensor& y, const Tensor& logit,
                          const Tensor& dlogit) override;
  void attention(const HeadRows& q, const KeyRows& keys, const VisibleKeys& visible, float scale,
                 const Tensor& out, const Tensor& lse) override;
  void attention_part(const HeadRows& q, const KeyRows& keys, const VisibleKeys& visible,
                      float scale, const AttentionSums& sums, Write write) override;
  void merge_attention(const AttentionSums& more, float scale, const AttentionSums& sums) override;
  void attention_result(const AttentionSums& sums, float scale, const Tensor& out,
                        const Tensor& lse) override;
  void attention_backward(const Tensor& dout, const HeadRows& q, const KeyRows& keys,
                          const VisibleKeys& visible, float scale, const Tensor& out,
                          const Tensor& lse, const AttentionGradients& gradients,
                          Write write) override;
  void add_sinks(const Tensor& sinks, const Tensor& out, const Tensor& lse) override;
  void sinks_backward(const Tensor& dout, const Tensor& out, const Tensor& lse, const Tensor& sinks,
                      const Tensor& dsinks) override;
  void store_in_pages(const Tensor& rows, const RowGroups& groups, const PagedRuns& runs,
                      const Tensor& pages) override;
  void attention(const HeadRows& q, const KeyPages& keys, const VisibleKeys& visible, float scale,
                 const Tensor& out, const Tensor& lse) override;
  void swiglu(const Tensor& gate_up, float limit, const Tensor& y) override;
  void swiglu_backward(const Tensor& dy, const Tensor& gate_up, float limit,
                       const Tensor& dgate_up) override;

  void route(const RouteOptions& options, const RouteTensors& tensors) override;
  void route_weights(const RouteOptions& options, const Tensor& scores, const Tensor& choice,
                     const Tensor& weight) override;
  void route_backward(const RouteOptions& options, const RouteTensors& tensors,
                      const Tensor& choice, const Tensor& dweight, const Tensor& daux, float dz,
                      const Tensor& dlogits) override;
  void aux_gradient(const Tensor& choice, const Tensor& segment, const Tensor& load,
                    const AuxScale& scale, const Tensor& daux) override;
  void drop_overflow(const Tensor& choice, const Tensor& weight, std::int64_t slots,
                     const Tensor& target, const Tensor& counts) override;
  void lay_rows(const Tensor& target, const Tensor& order, const Tensor& position,
                const Tensor& source, const Tensor& offsets) override;
  void gather_rows(const Tensor& x, const Tensor& index, const Tensor& y) override;
  void combine_rows(const Tensor& rows, const Tensor& position, const Tensor& weight,
                    const Tensor& y) override;
  void combine_rows_backward(const Tensor& dy, const Tensor& rows, const Tensor& position,
                             const Tensor& weight, const Tensor& drows,
                             const Tensor& dweight) override;
  void softmax_stats(const Tensor& logits, const Tensor& target, const Tensor& stats,
                     const Tensor& best) override;
  void divergence(const Tensor& reference, const Tensor& logits, const Tensor& log_sums,
                  const Tensor& divergence) override;
  void cross_entropy_backward(const Tensor& logits, const Tensor& target, const Tensor& stats,
                              const Tensor& weight, const Tensor& dlogits,
                              const Tensor& spread) override;
  void adamw(std::span<const AdamWTensors> tensors) override;

 private:
  /// Calls work(begin, end, thread) with contiguous shares of [0, n), one for each thread.
  template <class Work>
  void share(std::int64_t n, const Work& work) const {
    const std::int64_t parts = std::min<std::int64_t>(threads_, n);
#pragma omp parallel for num_threads(threads_) schedule(static, 1) if (parts > 1)
    for (std::int64_t part = 0; part < parts; ++part) {
      work(n * part / parts, n * (part + 1) / parts, part);
    }
  }

  void update_one(const AdamWTensors& tensors);
  /// Attention of rows to rows. parts_of(head, T{}): where the queries of a head go.
  template <class PartsOf>
  void attend(const HeadRows& q, const KeyRows& keys, const VisibleKeys& visible, float scale,
              const PartsOf& parts_of);

  /// Calls work(kernels, T{}) with the kernels and the element type of a compute dtype.
  template <class Work>
  void with_kernels(DType dtype, const Work& work) const {
    if (dtype == DType::kF32) {
      work(*set_.f32, float{});
    } else {
      work(*set_.bf16, BFloat16{});
    }
  }

  int threads_;
  InstructionSet set_;
  MemoryPool memory_pool_;
  Matmul matmul_;
};

}  // namespace moesaic::cpu
