#include "model/layers/linear.h"

namespace moesaic::model {
namespace {

Shape stacked(const std::vector<PublicTensor>& tensors) {
  std::int64_t rows = 0;
  for (const PublicTensor& tensor : tensors) {
    rows += tensor.slice_shape()[0];
  }
  return {rows, tensors.front().slice_shape()[1]};
}

// Where only some rows of a weight are trained: those of each group that lie in them. Groups of
// which the same rows are trained share the columns of dy.
void add_to_trained_rows(Context& ctx, const Tensor& dy, const Tensor& x, const Tensor& offsets,
                         const Parameter& weight) {
  const std::int64_t n = dy.dim(1);
  const std::int64_t groups = weight.spec.shape.numel() / (n * x.dim(1));
  Slice picked{0, 0};
  Tensor columns;
  for (std::int64_t g = 0; g < groups; ++g) {
    for (const TrainedRows& trained : weight.trained) {
      const Slice rows = overlap(trained.rows, {g * n, n});
      if (rows.count == 0) {
        continue;
      }
      if (!columns.defined() || picked.begin != rows.begin - g * n || picked.count != rows.count) {
        picked = {rows.begin - g * n, rows.count};
        columns = columns_of(ctx, dy, picked);
      }
      const Tensor grad = weight.grad_rows(weight.trained_in(rows));
      ctx.backend.grouped_matmul_dw(columns, x, offsets.defined() ? offsets.rows(g, 2) : Tensor(),
                                    grad.reshaped({1, rows.count, x.dim(1)}));
    }
  }
}

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

Tensor columns_of(Context& ctx, const Tensor& x, Slice columns) {
  if (columns.count == x.dim(1)) {
    return x;
  }
  Tensor picked = ctx.empty(x.dtype(), {x.dim(0), columns.count});
  ctx.backend.copy_groups(x, {columns.begin, 1, 0, columns.count}, picked, {0, 1, 0, columns.count},
                          Write::kOverwrite);
  return picked;
}

void multiply(Context& ctx, const Tensor& x, const Tensor& offsets, const Parameter& weight,
              const Tensor& y) {
  ctx.tell(&Observer::on_linear, {.device = ctx, .x = x, .offsets = offsets, .weight = weight});
  if (weight.packed.groups > 0) {
    ctx.backend.packed_matmul(x, offsets, weight.packed, y, shared_peaks(ctx, x, weight.packed));
  } else if (weight.spec.shape.rank() == 3) {
    ctx.backend.grouped_matmul(x, offsets, weight.compute, y);
  } else {
    ctx.backend.matmul(x, Transpose::kNo, weight.compute, Transpose::kYes, y, Write::kOverwrite);
  }
}

void add_weight_gradient(Context& ctx, const Tensor& dy, const Tensor& x, const Tensor& offsets,
                         const Parameter& weight) {
  if (!weight.is_trained()) {
    return;
  }
  if (!weight.is_trained_whole()) {
    add_to_trained_rows(ctx, dy, x, offsets, weight);
  } else if (weight.spec.shape.rank() == 3) {
    ctx.backend.grouped_matmul_dw(dy, x, offsets, weight.grad);
  } else {
    ctx.backend.matmul(dy, Transpose::kYes, x, Transpose::kNo, weight.grad, Write::kAdd);
  }
}

void add_gradient(Context& ctx, const Parameter& parameter,
                  const std::function<void(const Tensor&)>& backward) {
  if (!parameter.is_trained()) {
    return;
  }
  if (parameter.is_trained_whole()) {
    backward(parameter.grad);
    return;
  }
  const Tensor whole = ctx.zeros(DType::kF32, parameter.spec.shape);
  backward(whole);
  for (const TrainedRows& trained : parameter.trained) {
    ctx.backend.add(parameter.rows_of(whole, trained.rows),
                    parameter.grad_rows(trained.among_trained()));
  }
}

void add_bias_gradient(Context& ctx, const Tensor& dy, const Tensor& offsets,
                       const Parameter& bias) {
  add_gradient(ctx, bias, [&](const Tensor& to) { ctx.backend.bias_backward(dy, offsets, to); });
}

Linear::Linear(Parameters& parameters, const std::vector<PublicTensor>& tensors, Full full,
               double init_std, const Placement& placement, const LinearOptions& options)
    : weight_(parameters.add({.shape = stacked(tensors),
                              .tensors = tensors,
                              .init_std = init_std,
                              .sum = options.sum,
                              .packable = options.packable,
                              .adaptable = true})),
      adapter_(Adapter::of(parameters, weight_.spec, placement, true)),
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
  multiply(ctx, x, {}, weight_, y);
  if (bias_ != nullptr && adds_bias_) {
    ctx.backend.add_bias(y, {}, bias_->value);
  }
  if (adapter_) {
    adapter_->forward(ctx, x, {}, y, saved != nullptr ? &saved->adapter : nullptr);
  }
  if (saved != nullptr && (weight_.is_trained() || adapter_)) {
    saved->x = x;
  }
  return y;
}

Tensor Linear::backward(Context& ctx, const Tensor& dy, const Saved& saved) const {
  const Tensor d = ctx.as(ctx.compute, dy);
  add_weight_gradient(ctx, d, saved.x, {}, weight_);
  if (bias_ != nullptr) {
    add_bias_gradient(ctx, d, {}, *bias_);
  }
  const DType dtype = full_ == Full::kOutput ? ctx.compute : DType::kF32;
  Tensor dx = ctx.empty(dtype, {d.dim(0), weight_.spec.shape[1]});
  ctx.backend.matmul(d, Transpose::kNo, weight_.compute, Transpose::kNo, dx, Write::kOverwrite);
  if (adapter_) {
    adapter_->backward(ctx, d, saved.x, {}, saved.adapter, dx);
  }
  return dx;
}

}  // namespace moesaic::model
