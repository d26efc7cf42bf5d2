#include "model/layers/attention.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/share.h"
#include "config/layers.h"
#include "model/context_parallel.h"

namespace moesaic::model {

namespace {

// This rank's slice of a tensor whose first dim holds query heads: whole heads.
PublicTensor query_slice(const std::string& name, Shape shape, const config::Model& model,
                         const Placement& placement) {
  const Slice own = placement.of(model.heads);
  shape.set(0, model.heads * model.head_dim);
  return split_tensor(name, shape, 0, {own.begin * model.head_dim, own.count * model.head_dim});
}

// This rank's slice of a tensor whose first dim holds key or value heads: whole heads. Where tp is
// larger than their number, several ranks hold the same head.
PublicTensor kv_slice(const std::string& name, Shape shape, const config::Model& model,
                      const Placement& placement) {
  const std::int64_t copies = kv_copies(model.kv_heads, placement.tp);
  const Slice own = share_of(model.kv_heads, placement.tp_rank / copies, placement.tp / copies);
  shape.set(0, model.kv_heads * model.head_dim);
  PublicTensor tensor =
      split_tensor(name, shape, 0, {own.begin * model.head_dim, own.count * model.head_dim});
  tensor.copies = static_cast<int>(copies);
  tensor.copy = static_cast<int>(placement.tp_rank % copies);
  tensor.partial = copies > 1;
  return tensor;
}

std::vector<PublicTensor> qkv_slices(const std::string& prefix, const std::string& kind,
                                     const Shape& shape, const config::Model& model,
                                     const Placement& placement) {
  return {query_slice(prefix + "q_proj." + kind, shape, model, placement),
          kv_slice(prefix + "k_proj." + kind, shape, model, placement),
          kv_slice(prefix + "v_proj." + kind, shape, model, placement)};
}

LinearOptions qkv_options(const std::string& prefix, const config::Model& model,
                          const Placement& placement) {
  LinearOptions options;
  if (model.qkv_bias) {
    options.bias = qkv_slices(prefix, "bias", {1}, model, placement);
  }
  return options;
}

AttentionShape own_heads(const config::Model& model, const Placement& placement) {
  return {.heads = model.heads / placement.tp,
          .kv_heads = kv_heads_of_rank(model.kv_heads, placement.tp),
          .head_dim = model.head_dim,
          .v_dim = model.head_dim,
          .scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(model.head_dim)))};
}

QkNorm make_norm(Parameters& parameters, const std::string& prefix, const config::Model& model,
                 const AttentionShape& shape, const Placement& placement) {
  const std::string q = prefix + "q_norm.weight";
  const std::string k = prefix + "k_norm.weight";
  const bool whole = model.qk_norm == config::QkNorm::kProjection;
  const Shape head{model.head_dim};
  return {parameters,
          model,
          {shape.heads, shape.kv_heads},
          whole ? query_slice(q, {1}, model, placement) : copied_tensor(q, head, placement),
          whole ? kv_slice(k, {1}, model, placement) : copied_tensor(k, head, placement)};
}

Parameter& add_sinks(Parameters& parameters, const std::string& prefix, std::int64_t heads,
                     const Placement& placement) {
  return parameters.add(
      {.shape = {placement.of(heads).count},
       .tensors = {split_tensor(prefix + "sinks", {heads}, 0, placement.of(heads))},
       .in_products = false});
}

}  // namespace

LinearOptions output_options(const std::string& prefix, const config::Model& model,
                             const Placement& placement) {
  LinearOptions options;
  if (model.output_bias) {
    options.bias = {copied_tensor(prefix + "o_proj.bias", {model.d_model}, placement)};
    options.adds_bias = placement.tp_rank == 0;
  }
  return options;
}

Attention::Attention(Parameters& parameters, const std::string& prefix, const config::Model& model,
                     std::int64_t layer, double init_std, double output_std,
                     const Placement& placement)
    : layer_(static_cast<std::size_t>(layer)),
      shape_(own_heads(model, placement)),
      window_(config::is_windowed(model, layer) ? model.sliding_window : 0),
      clip_(static_cast<float>(model.clip_qkv)),
      rope_(parameters, model, model.head_dim),
      qkv_(parameters, qkv_slices(prefix, "weight", {1, model.d_model}, model, placement),
           Linear::Full::kInputGradient, init_std, placement,
           qkv_options(prefix, model, placement)),
      output_(
          parameters,
          {split_tensor(prefix + "o_proj.weight", {model.d_model, model.heads * model.head_dim}, 1,
                        {shape_.heads * shape_.head_dim * placement.tp_rank,
                         shape_.heads * shape_.head_dim})},
          Linear::Full::kOutput, output_std, placement, output_options(prefix, model, placement)) {
  if (model.qk_norm != config::QkNorm::kNone) {
    norm_.emplace(make_norm(parameters, prefix, model, shape_, placement));
  }
  if (model.sinks) {
    sinks_ = &add_sinks(parameters, prefix, model.heads, placement);
  }
}

RowGroups Attention::rotated() const {
  return {0, shape_.heads + shape_.kv_heads, shape_.head_dim, shape_.head_dim};
}

// What is rotated next, from what the products gave: normed, then clamped.
Tensor Attention::prepared(Context& ctx, const Tensor& raw, QkNorm::Saved& saved) const {
  Tensor qkv = ctx.empty(raw.dtype(), raw.shape());
  ctx.backend.convert(raw, qkv);
  if (norm_) {
    norm_->forward(ctx, raw, qkv, saved);
  }
  if (clip_ > 0.0F) {
    ctx.backend.clamp(qkv, clip_);
  }
  return qkv;
}

std::int64_t Attention::page_elements() const {
  return shape_.kv_heads * kPageTokens * (shape_.head_dim + shape_.v_dim);
}

LayerCache Attention::make_cache(const Context& ctx, std::int64_t pages) const {
  return {.keys = ctx.empty(ctx.compute, {pages, shape_.kv_heads, kPageTokens, shape_.head_dim}),
          .values = ctx.empty(ctx.compute, {pages, shape_.kv_heads, kPageTokens, shape_.v_dim}),
          .key_up = {},
          .value_up = {}};
}

void Attention::attend(Context& ctx, const Saved& s) const {
  if (ctx.batch.cache == nullptr) {
    attend_to_context(ctx, s.qkv, shape_, window_, s.out, s.lse);
    return;
  }
  const LayerCache& cache = ctx.batch.cache->at(layer_);
  const PagedRuns& runs = ctx.batch.device.runs;
  const KeyRows own = shape_.keys(s.qkv);
  ctx.backend.store_in_pages(s.qkv, own.k.heads, runs, cache.keys);
  ctx.backend.store_in_pages(s.qkv, own.v.heads, runs, cache.values);
  ctx.backend.attention(shape_.queries(s.qkv), {cache.keys, cache.values, runs},
                        keys_in(ctx, window_).visible, shape_.scale, s.out, s.lse);
}

Tensor Attention::forward(Context& ctx, const Tensor& x, Saved* saved) const {
  Saved local;
  Saved& s = saved != nullptr ? *saved : local;
  const std::int64_t tokens = x.dim(0);
  s.qkv = qkv_.forward(ctx, x, saved != nullptr ? &s.qkv_in : nullptr);
  if (norm_ || clip_ > 0.0F) {
    s.raw = s.qkv;
    s.qkv = prepared(ctx, s.raw, s.norm);
  }
  rope_.rotate(ctx, s.qkv, rotated(), Direction::kForward);
  s.out = ctx.empty(ctx.compute, {tokens, shape_.heads, shape_.v_dim});
  s.lse = ctx.empty(DType::kF32, {tokens, shape_.heads});
  attend(ctx, s);
  if (sinks_ != nullptr) {
    ctx.backend.add_sinks(sinks_->value, s.out, s.lse);
  }
  return output_.forward(ctx, s.out.reshaped({tokens, shape_.heads * shape_.v_dim}),
                         saved != nullptr ? &s.out_in : nullptr);
}

Tensor Attention::backward(Context& ctx, const Tensor& dy, const Saved& saved) const {
  const Tensor dout = output_.backward(ctx, dy, saved.out_in).reshaped(saved.out.shape());
  if (sinks_ != nullptr && sinks_->is_trained()) {
    ctx.backend.sinks_backward(dout, saved.out, saved.lse, sinks_->value, sinks_->grad);
  }
  const Tensor dqkv = ctx.empty(ctx.compute, saved.qkv.shape());
  attend_to_context_backward(ctx, dout, saved.qkv, shape_, window_, saved.out, saved.lse, dqkv);
  rope_.rotate(ctx, dqkv, rotated(), Direction::kInverse);
  if (clip_ > 0.0F) {
    Tensor unclipped = saved.raw;
    if (norm_) {
      unclipped = ctx.empty(saved.raw.dtype(), saved.raw.shape());
      ctx.backend.convert(saved.raw, unclipped);
      norm_->repeat(ctx, saved.raw, unclipped, saved.norm);
    }
    ctx.backend.clamp_backward(dqkv, unclipped, clip_);
  }
  if (norm_) {
    norm_->backward(ctx, dqkv, saved.raw, saved.norm);
  }
  return qkv_.backward(ctx, dqkv, saved.qkv_in);
}

}  // namespace moesaic::model
