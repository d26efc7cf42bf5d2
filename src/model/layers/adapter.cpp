#include "model/layers/adapter.h"

#include <fmt/format.h>

#include <cmath>

#include "base/error.h"
#include "model/layers/linear.h"

namespace moesaic::model {
namespace {

// Tensors in one group of a weight (G, N, K).
std::size_t tensors_in_group(const ParameterSpec& weight) {
  const std::int64_t groups = weight.shape.rank() == 3 ? weight.shape[0] : 1;
  return groups == 0 ? 0 : weight.tensors.size() / static_cast<std::size_t>(groups);
}

// Which tensors of a group have an adapter: the same in all groups.
std::vector<std::size_t> chosen(const AdapterRules& rules, const ParameterSpec& weight) {
  const std::size_t in_group = tensors_in_group(weight);
  std::vector<std::size_t> targets;
  for (std::size_t t = 0; t < in_group; ++t) {
    const bool first = rules.has(weight.tensors[t].name);
    for (std::size_t i = t; i < weight.tensors.size(); i += in_group) {
      if (rules.has(weight.tensors[i].name) != first) {
        throw Error(
            Exit::kUsage,
            fmt::format("adapter.targets: {} has an adapter, and {} has not: the experts "
                        "of a layer have them all or none",
                        weight.tensors[first ? t : i].name, weight.tensors[first ? i : t].name));
      }
    }
    if (first) {
      targets.push_back(t);
    }
  }
  return targets;
}

// The sum of the half that every rank of tp holds, and of the one that is split with the weight.
struct Sums {
  SumOver whole, split;
};
Sums sums_of(const ParameterSpec& weight, bool over_tp) {
  const bool experts = weight.sum == SumOver::kExpertReplicas;
  const SumOver stage = experts ? SumOver::kExpertStage : SumOver::kStage;
  return {over_tp ? stage : weight.sum, weight.sum};
}

PublicTensor whole_half(const std::string& name, const Shape& shape, const Placement& placement,
                        bool over_tp) {
  return over_tp ? copied_tensor(name, shape, placement) : whole_tensor(name, shape);
}

PublicTensor a_of(const PublicTensor& weight, std::int64_t rank, const Placement& placement,
                  bool over_tp) {
  const Shape shape{rank, weight.shape[1]};
  const std::string name = lora_a_name(weight.name);
  return weight.dim == 1 ? split_tensor(name, shape, 1, weight.slice)
                         : whole_half(name, shape, placement, over_tp);
}

PublicTensor b_of(const PublicTensor& weight, std::int64_t rank, const Placement& placement,
                  bool over_tp) {
  const Shape shape{weight.shape[0], rank};
  const std::string name = lora_b_name(weight.name);
  if (weight.dim == 1) {
    return whole_half(name, shape, placement, over_tp);
  }
  PublicTensor tensor = split_tensor(name, shape, 0, weight.slice);
  tensor.copies = weight.copies;
  tensor.copy = weight.copy;
  tensor.partial = weight.partial;
  return tensor;
}

Shape with_groups(const ParameterSpec& weight, std::int64_t rows, std::int64_t columns) {
  return weight.shape.rank() == 3 ? Shape{weight.shape[0], rows, columns} : Shape{rows, columns};
}

// y (R, N) = x (R, K) w^T of each row's group.
void product(Context& ctx, const Tensor& x, const Tensor& offsets, const Tensor& w,
             const Tensor& y) {
  if (w.shape().rank() == 3) {
    ctx.backend.grouped_matmul(x, offsets, w, y);
  } else {
    ctx.backend.matmul(x, Transpose::kNo, w, Transpose::kYes, y, Write::kOverwrite);
  }
}

// dx (R, K) = dy (R, N) w of each row's group.
void product_backward(Context& ctx, const Tensor& dy, const Tensor& offsets, const Tensor& w,
                      const Tensor& dx) {
  if (w.shape().rank() == 3) {
    ctx.backend.grouped_matmul_dx(dy, offsets, w, dx);
  } else {
    ctx.backend.matmul(dy, Transpose::kNo, w, Transpose::kNo, dx, Write::kOverwrite);
  }
}

}  // namespace

std::optional<Adapter> Adapter::of(Parameters& parameters, const ParameterSpec& weight,
                                   const Placement& placement, bool over_tp) {
  const AdapterRules& rules = parameters.adapters();
  const std::vector<std::size_t> targets = chosen(rules, weight);
  if (targets.empty()) {
    return std::nullopt;
  }
  const std::size_t in_group = tensors_in_group(weight);
  const std::int64_t columns = weight.shape[weight.shape.rank() - 1];
  const bool by_columns = weight.tensors.front().dim == 1;
  const Sums sums = sums_of(weight, over_tp);
  Adapter adapter;
  adapter.rank_ = rules.rank();
  adapter.scale_ = static_cast<float>(rules.scale());
  ParameterSpec a{
      .shape = with_groups(weight, std::ssize(targets) * rules.rank(), columns),
      .tensors = {},
      .init_bound = 1.0 / std::sqrt(static_cast<double>(weight.tensors.front().shape[1])),
      .seed = rules.seed(),
      .sum = by_columns ? sums.split : sums.whole,
      .in_products = weight.in_products,
      .decays = false};
  for (std::size_t g = 0; g < weight.tensors.size(); g += in_group) {
    for (const std::size_t t : targets) {
      a.tensors.push_back(a_of(weight.tensors[g + t], rules.rank(), placement, over_tp));
      a.tensors.back().may_be_missing = true;
    }
  }
  adapter.a_ = &parameters.add(std::move(a));
  for (const std::size_t t : targets) {
    Target target{.rows = {0, weight.tensors[t].slice_shape()[0]}, .b = nullptr};
    for (std::size_t before = 0; before < t; ++before) {
      target.rows.begin += weight.tensors[before].slice_shape()[0];
    }
    ParameterSpec b{.shape = with_groups(weight, target.rows.count, rules.rank()),
                    .tensors = {},
                    .sum = by_columns ? sums.whole : sums.split,
                    .in_products = weight.in_products,
                    .decays = false};
    for (std::size_t g = 0; g < weight.tensors.size(); g += in_group) {
      b.tensors.push_back(b_of(weight.tensors[g + t], rules.rank(), placement, over_tp));
      b.tensors.back().may_be_missing = true;
    }
    target.b = &parameters.add(std::move(b));
    adapter.targets_.push_back(target);
  }
  return adapter;
}

// Those of u that belong to a target.
Slice Adapter::columns(std::size_t target) const {
  return {static_cast<std::int64_t>(target) * rank_, rank_};
}

void Adapter::forward(Context& ctx, const Tensor& x, const Tensor& offsets, const Tensor& y,
                      Saved* saved) const {
  const Tensor wide = ctx.empty(DType::kF32, {x.dim(0), std::ssize(targets_) * rank_});
  product(ctx, x, offsets, a_->compute, wide);
  ctx.backend.scale(wide, scale_);
  const Tensor u = ctx.as(a_->compute.dtype(), wide);
  for (std::size_t t = 0; t < targets_.size(); ++t) {
    const Target& target = targets_[t];
    const Tensor update = ctx.empty(DType::kF32, {x.dim(0), target.rows.count});
    product(ctx, columns_of(ctx, u, columns(t)), offsets, target.b->compute, update);
    ctx.backend.copy_groups(update, {0, 1, 0, target.rows.count}, y,
                            {target.rows.begin, 1, 0, target.rows.count}, Write::kAdd);
  }
  if (saved != nullptr) {
    saved->u = u;
  }
}

void Adapter::backward(Context& ctx, const Tensor& dy, const Tensor& x, const Tensor& offsets,
                       const Saved& saved, const Tensor& dx) const {
  const Tensor wide = ctx.empty(DType::kF32, {dy.dim(0), std::ssize(targets_) * rank_});
  for (std::size_t t = 0; t < targets_.size(); ++t) {
    const Target& target = targets_[t];
    const Tensor d = columns_of(ctx, dy, target.rows);
    add_weight_gradient(ctx, d, columns_of(ctx, saved.u, columns(t)), offsets, *target.b);
    const Tensor du = ctx.empty(DType::kF32, {dy.dim(0), rank_});
    product_backward(ctx, d, offsets, target.b->compute, du);
    ctx.backend.copy_groups(du, {0, 1, 0, rank_}, wide, {columns(t).begin, 1, 0, rank_},
                            Write::kOverwrite);
  }
  ctx.backend.scale(wide, scale_);
  const Tensor du = ctx.as(a_->compute.dtype(), wide);
  add_weight_gradient(ctx, du, x, offsets, *a_);
  const Tensor more = ctx.empty(DType::kF32, dx.shape());
  product_backward(ctx, du, offsets, a_->compute, more);
  const RowGroups all{0, 1, 0, dx.dim(1)};
  ctx.backend.copy_groups(more, all, dx, all, Write::kAdd);
}

}  // namespace moesaic::model
