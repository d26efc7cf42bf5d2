#include "model/layers/qk_norm.h"

#include <utility>

namespace moesaic::model {

QkNorm::QkNorm(Parameters& parameters, const config::Model& model, const HeadsOfRank& own,
               PublicTensor q_weight, PublicTensor k_weight)
    : whole_(model.qk_norm == config::QkNorm::kProjection),
      head_dim_(model.head_dim),
      eps_(static_cast<float>(model.norm_eps)),
      q_(part(parameters, std::move(q_weight), 0, own.heads, model.heads)),
      k_(part(parameters, std::move(k_weight), own.heads * head_dim_, own.kv_heads,
              model.kv_heads)) {}

// The weight of one head is every rank's, each of which has a part of its gradient.
QkNorm::Part QkNorm::part(Parameters& parameters, PublicTensor weight, std::int64_t first,
                          std::int64_t heads, std::int64_t all_heads) const {
  const Shape shape = weight.slice_shape();
  const auto copies = static_cast<float>(weight.copies);
  Parameter& parameter = parameters.add({.shape = shape,
                                         .tensors = {std::move(weight)},
                                         .init_value = 1.0,
                                         .sum = whole_ ? SumOver::kReplicas : SumOver::kStage,
                                         .in_products = false});
  return {whole_ ? RowGroups{first, 1, 0, heads * head_dim_}
                 : RowGroups{first, heads, head_dim_, head_dim_},
          static_cast<float>(whole_ ? all_heads * head_dim_ : head_dim_), copies, parameter};
}

// A norm of the whole projection is over the ranks of tp.
void QkNorm::sum(Context& ctx, const Part& part, const Tensor& sums) const {
  if (whole_) {
    ctx.tp.all_reduce_sum(sums);
    ctx.backend.scale(sums, 1.0F / part.copies);
  }
}

Tensor QkNorm::squares(Context& ctx, const Part& part, const Tensor& x) const {
  Tensor squares = ctx.empty(DType::kF32, {x.dim(0), part.groups.groups});
  ctx.backend.group_squares(x, part.groups, squares);
  sum(ctx, part, squares);
  return squares;
}

void QkNorm::apply(Context& ctx, const Part& part, const Tensor& x, const Tensor& squares,
                   const Tensor& y) const {
  ctx.backend.group_norm(x, part.groups, squares, part.count, eps_, part.weight.value, y);
}

void QkNorm::pull_back(Context& ctx, const Part& part, const Tensor& dy, const Tensor& x,
                       const Tensor& squares) const {
  const Tensor dots = ctx.empty(DType::kF32, squares.shape());
  ctx.backend.group_dots(dy, x, part.groups, part.weight.value, dots);
  sum(ctx, part, dots);  // each of the copies has a share of the gradient
  ctx.backend.group_norm_backward(dy, x, part.groups, squares, dots, part.count, eps_,
                                  part.weight.value, part.weight.grad);
}

void QkNorm::forward(Context& ctx, const Tensor& x, const Tensor& y, Saved& saved) const {
  saved = {squares(ctx, q_, x), squares(ctx, k_, x)};
  repeat(ctx, x, y, saved);
}

void QkNorm::repeat(Context& ctx, const Tensor& x, const Tensor& y, const Saved& saved) const {
  apply(ctx, q_, x, saved.q, y);
  apply(ctx, k_, x, saved.k, y);
}

void QkNorm::backward(Context& ctx, const Tensor& dy, const Tensor& x, const Saved& saved) const {
  pull_back(ctx, q_, dy, x, saved.q);
  pull_back(ctx, k_, dy, x, saved.k);
}

}  // namespace moesaic::model
