#include "model/linear.h"

namespace moesaic::model {
namespace {

Shape stacked(const std::vector<PublicTensor>& tensors) {
  std::int64_t rows = 0;
  for (const PublicTensor& tensor : tensors) {
    rows += tensor.part_shape()[0];
  }
  return {rows, tensors.front().part_shape()[1]};
}

}  // namespace

Linear::Linear(Parameters& parameters, const std::vector<PublicTensor>& tensors, Full full,
               double init_std)
    : weight_(
          parameters.add({.shape = stacked(tensors), .tensors = tensors, .init_std = init_std})),
      full_(full) {}

Tensor Linear::forward(Context& ctx, const Tensor& x, Saved* saved) const {
  const DType dtype = full_ == Full::kOutput ? DType::kF32 : ctx.compute;
  Tensor y = ctx.empty(dtype, {x.dim(0), weight_.value.dim(0)});
  ctx.backend.matmul(x, Transpose::kNo, weight_.compute, Transpose::kYes, y, Write::kOverwrite);
  if (saved != nullptr) {
    saved->x = x;
  }
  return y;
}

Tensor Linear::backward(Context& ctx, const Tensor& dy, const Saved& saved) const {
  const Tensor d = ctx.as(ctx.compute, dy);
  ctx.backend.matmul(d, Transpose::kYes, saved.x, Transpose::kNo, weight_.grad, Write::kAdd);
  const DType dtype = full_ == Full::kInputGradient ? DType::kF32 : ctx.compute;
  Tensor dx = ctx.empty(dtype, saved.x.shape());
  ctx.backend.matmul(d, Transpose::kNo, weight_.compute, Transpose::kNo, dx, Write::kOverwrite);
  return dx;
}

}  // namespace moesaic::model
