#include "model/layers/linear.h"

#include <array>

namespace moesaic::model {
namespace {

Shape stacked(const std::vector<PublicTensor>& tensors) {
  std::int64_t rows = 0;
  for (const PublicTensor& tensor : tensors) {
    rows += tensor.slice_shape()[0];
  }
  return {rows, tensors.front().slice_shape()[1]};
}

std::array<std::int64_t, 2> all_of(const Tensor& y) { return {0, y.dim(0)}; }

// Collective over tp where its ranks share a block of x: they all round their columns by the
// largest value of that block, as a rank does that has all columns.
Tensor shared_peaks(Context& ctx, const Tensor& x, const PackedWeights& w) {
  if (w.format == DType::kBf16 || !w.slice.shares_blocks(ctx.tp.group().size())) {
    return {};
  }
  Tensor peaks = ctx.empty(DType::kI32, {x.dim(0), packed_blocks(w.slice.whole)});
  ctx.backend.block_peaks(x, w.slice, peaks);
  ctx.tp.all_reduce_max(peaks);
  return peaks;
}

}  // namespace

void multiply(Context& ctx, const Tensor& x, std::span<const std::int64_t> offsets,
              const Parameter& weight, const Tensor& y) {
  ctx.tell(&Observer::on_linear, {.device = ctx, .x = x, .offsets = offsets, .weight = weight});
  if (weight.packed.groups > 0) {
    ctx.backend.packed_matmul(x, offsets, weight.packed, y, shared_peaks(ctx, x, weight.packed));
  } else if (weight.spec.shape.rank() == 3) {
    ctx.backend.grouped_matmul(x, offsets, weight.compute, y);
  } else {
    ctx.backend.matmul(x, Transpose::kNo, weight.compute, Transpose::kYes, y, Write::kOverwrite);
  }
}

Linear::Linear(Parameters& parameters, const std::vector<PublicTensor>& tensors, Full full,
               double init_std, const LinearOptions& options)
    : weight_(parameters.add({.shape = stacked(tensors),
                              .tensors = tensors,
                              .init_std = init_std,
                              .sum = options.sum,
                              .packable = options.packable})),
      adds_bias_(options.adds_bias),
      full_(full) {
  if (!options.bias.empty()) {
    bias_ = &parameters.add({.shape = {weight_.spec.shape[0]},
                             .tensors = options.bias,
                             .sum = options.sum,
                             .in_products = false});
  }
}

Tensor Linear::forward(Context& ctx, const Tensor& x, Saved* saved) const {
  const DType dtype = full_ == Full::kInputGradient ? ctx.compute : DType::kF32;
  Tensor y = ctx.empty(dtype, {x.dim(0), weight_.spec.shape[0]});
  multiply(ctx, x, all_of(y), weight_, y);
  if (bias_ != nullptr && adds_bias_) {
    ctx.backend.add_bias(y, all_of(y), bias_->value);
  }
  if (saved != nullptr) {
    saved->x = x;
  }
  return y;
}

Tensor Linear::backward(Context& ctx, const Tensor& dy, const Saved& saved) const {
  const Tensor d = ctx.as(ctx.compute, dy);
  ctx.backend.matmul(d, Transpose::kYes, saved.x, Transpose::kNo, weight_.grad, Write::kAdd);
  if (bias_ != nullptr) {
    ctx.backend.bias_backward(d, all_of(d), bias_->grad);
  }
  const DType dtype = full_ == Full::kOutput ? ctx.compute : DType::kF32;
  Tensor dx = ctx.empty(dtype, saved.x.shape());
  ctx.backend.matmul(d, Transpose::kNo, weight_.compute, Transpose::kNo, dx, Write::kOverwrite);
  return dx;
}

}  // namespace moesaic::model
