#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "backend/backend.h"
#include "backend/cuda/staging.h"
#include "backend/cuda/stream.h"
#include "backend/memory_pool.h"

namespace moesaic {

namespace cuda {

/// The elements of a tensor on the device, for arguments of kernels; nullptr where it is undefined.
template <class T>
T* device(const Tensor& tensor) {
  if (!tensor.defined()) {
    return nullptr;
  }
  require(tensor.dtype() == dtype_of<T>(), "tensor holds another dtype");
  require(tensor.location() == Location::kDevice, "tensor is not on the device");
  return reinterpret_cast<T*>(tensor.data());
}

/// The kernels on a device of compute capability 8.0 or more, one after another on one stream.
class CudaBackend final : public Backend {
 public:
  explicit CudaBackend(int device);
  CudaBackend(const CudaBackend&) = delete;
  CudaBackend& operator=(const CudaBackend&) = delete;
  ~CudaBackend() override;

  cudaStream_t stream() const { return stream_.get(); }
  int sm_count() const { return sm_count_; }
  /// By tensors, and in reserve for the next ones.
  std::size_t bytes_held() const { return memory_pool_.bytes_held(); }
  /// A table of bytes for the next kernels, as int32 (its size rounded up). Does not wait.
  Tensor upload_table(std::span<const std::byte> host);
  template <class T>
  Tensor upload_table(std::span<const T> rows) {
    return upload_table(std::as_bytes(rows));
  }

  std::string_view name() const override { return name_; }
  Tensor empty(DType dtype, const Shape& shape) override;
  void upload(std::span<const std::byte> host, const Tensor& to) override;
  void download(std::span<const Download> parts) override;
  using Backend::download;
  void synchronize() override;
  Mark mark() override;
  double seconds(const Mark& from, const Mark& to) override;
  void release_reserve() override;

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
  std::optional<DType> inference_format(DType compute) const override;
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
  void drop_overflow(const Tensor& choice, const Tensor& weight, std::int64_t slots,
                     const Tensor& target, const Tensor& counts) override;
  void lay_rows(const Tensor& target, const Tensor& order, const Tensor& position,
                const Tensor& source, const Tensor& offsets) override;
  void aux_gradient(const Tensor& choice, const Tensor& segment, const Tensor& load,
                    const AuxScale& scale, const Tensor& daux) override;

 private:
  explicit CudaBackend(const cudaDeviceProp& properties);

  std::string name_;
  int sm_count_ = 0;
  MemoryPool memory_pool_;
  UploadRing uploads_;
  PinnedBlock downloads_;
  Stream stream_;
};

}  // namespace cuda
}  // namespace moesaic
