#include "model/latent_attention.h"

#include <cmath>

#include "base/share.h"
#include "config/layers.h"
#include "model/attention.h"

namespace moesaic::model {
namespace {

constexpr float kNormEps = 1e-6F;  // of the latent vectors, whatever the model's is (DeepSeek)

// Rows of whole heads, `width` for each.
PublicTensor head_rows(const std::string& name, std::int64_t width, std::int64_t inputs,
                       const config::Model& model, const Placement& place) {
  const Slice own = place.of(model.heads);
  return split_tensor(name, {model.heads * width, inputs}, 0,
                      {own.begin * width, own.count * width});
}

// Every rank of tp computes it and, as it goes on with its own heads, has a part of its gradient.
Linear make_down(Parameters& parameters, const std::string& name, std::int64_t rows,
                 const config::Model& model, double init_std, const Placement& place) {
  LinearOptions options;
  options.sum = SumOver::kStage;
  return {parameters,
          {copied_tensor(name, {rows, model.d_model}, place)},
          Linear::Full::kBoth,
          init_std,
          options};
}

// Its parts are read by heads as well.
LinearOptions heads_options() {
  LinearOptions options;
  options.packable = false;
  return options;
}

AttentionShape own_heads(const config::Model& model, const Placement& place) {
  const std::int64_t width = config::key_width(model);
  const std::int64_t heads = place.of(model.heads).count;
  return {.heads = heads,
          .kv_heads = heads,
          .head_dim = width,
          .v_dim = config::value_width(model),
          .scale =
              static_cast<float>(yarn_score_factor(model) / std::sqrt(static_cast<double>(width)))};
}

std::optional<Linear> make_q_down(Parameters& parameters, const std::string& prefix,
                                  const config::Model& model, double init_std,
                                  const Placement& place) {
  return model.q_lora_rank == 0
             ? std::nullopt
             : std::optional(make_down(parameters, prefix + "q_a_proj.weight", model.q_lora_rank,
                                       model, init_std, place));
}

std::optional<RmsNorm> make_q_norm(Parameters& parameters, const std::string& prefix,
                                   const config::Model& model, const Placement& place) {
  return model.q_lora_rank == 0 ? std::nullopt
                                : std::optional(RmsNorm(parameters, prefix + "q_a_layernorm.weight",
                                                        model.q_lora_rank, kNormEps, place, true));
}

}  // namespace

LatentAttention::LatentAttention(Parameters& parameters, const std::string& prefix,
                                 const config::Model& model, std::int64_t layer, double init_std,
                                 double output_std, const Placement& place)
    : nope_(model.qk_nope_head_dim),
      rotated_(model.qk_rope_head_dim),
      latent_(model.kv_lora_rank),
      shape_(own_heads(model, place)),
      window_(config::is_windowed(model, layer) ? model.sliding_window : 0),
      rope_(model, rotated_),
      q_down_(make_q_down(parameters, prefix, model, init_std, place)),
      q_norm_(make_q_norm(parameters, prefix, model, place)),
      q_(parameters,
         {head_rows(prefix + (q_down_ ? "q_b_proj.weight" : "q_proj.weight"), shape_.head_dim,
                    q_down_ ? model.q_lora_rank : model.d_model, model, place)},
         Linear::Full::kInputGradient, init_std),
      kv_down_(make_down(parameters, prefix + "kv_a_proj_with_mqa.weight", latent_ + rotated_,
                         model, init_std, place)),
      kv_norm_(parameters, prefix + "kv_a_layernorm.weight", latent_, kNormEps, place, true),
      kv_(parameters,
          {head_rows(prefix + "kv_b_proj.weight", nope_ + shape_.v_dim, latent_, model, place)},
          Linear::Full::kInputGradient, init_std, heads_options()),
      output_(
          parameters,
          {split_tensor(prefix + "o_proj.weight", {model.d_model, model.heads * shape_.v_dim}, 1,
                        {place.of(model.heads).begin * shape_.v_dim,
                         place.of(model.heads).count * shape_.v_dim})},
          Linear::Full::kOutput, output_std, output_options(prefix, model, place)) {}

// Queries, keys and values of all heads from q (T, H (n + r)), kv (T, H (n + v)) and the shared
// rotated part, the end of down (T, R + r).
Tensor LatentAttention::fuse(Context& ctx, const Tensor& q, const Tensor& kv,
                             const Tensor& down) const {
  const std::int64_t h = shape_.heads;
  const std::int64_t width = shape_.head_dim;
  const std::int64_t pair = nope_ + shape_.v_dim;
  Tensor qkv = ctx.empty(ctx.compute, {q.dim(0), values() + h * shape_.v_dim});
  ctx.backend.copy_groups(q, {0, 1, 0, keys()}, qkv, {0, 1, 0, keys()}, Write::kOverwrite);
  ctx.backend.copy_groups(kv, {0, h, pair, nope_}, qkv, {keys(), h, width, nope_},
                          Write::kOverwrite);
  ctx.backend.copy_groups(down, {latent_, h, 0, rotated_}, qkv,
                          {keys() + nope_, h, width, rotated_}, Write::kOverwrite);
  ctx.backend.copy_groups(kv, {nope_, h, pair, shape_.v_dim}, qkv,
                          {values(), h, shape_.v_dim, shape_.v_dim}, Write::kOverwrite);
  return qkv;
}

Tensor LatentAttention::forward(Context& ctx, const Tensor& x, Saved* saved) const {
  Saved local;
  Saved& s = saved != nullptr ? *saved : local;
  const std::int64_t tokens = x.dim(0);
  Tensor q_in = x;
  if (q_down_) {
    q_in = q_norm_->forward(ctx, q_down_->forward(ctx, x, &s.q_down_in), &s.q_norm);
  }
  const Tensor q = q_.forward(ctx, q_in, &s.q_in);
  rope_.rotate(ctx, q, {nope_, shape_.heads, shape_.head_dim, rotated_}, Direction::kForward);

  const Tensor down = kv_down_.forward(ctx, x, &s.kv_down_in);
  rope_.rotate(ctx, down, {latent_, 1, 0, rotated_}, Direction::kForward);
  const Tensor latent = ctx.empty(DType::kF32, {tokens, latent_});
  const RowGroups whole{0, 1, 0, latent_};
  ctx.backend.copy_groups(down, whole, latent, whole, Write::kOverwrite);
  const Tensor kv = kv_.forward(ctx, kv_norm_.forward(ctx, latent, &s.kv_norm), &s.kv_in);

  s.qkv = fuse(ctx, q, kv, down);
  s.out = ctx.empty(ctx.compute, {tokens, shape_.heads, shape_.v_dim});
  s.lse = ctx.empty(DType::kF32, {tokens, shape_.heads});
  ctx.backend.attention(s.qkv, shape_, visible_keys(ctx, window_), s.out, s.lse);
  return output_.forward(ctx, s.out.reshaped({tokens, shape_.heads * shape_.v_dim}), &s.out_in);
}

// Of x, through the queries.
Tensor LatentAttention::query_gradient(Context& ctx, const Tensor& dqkv, const Saved& saved) const {
  const Tensor dq = ctx.empty(ctx.compute, {dqkv.dim(0), keys()});
  const RowGroups whole{0, 1, 0, keys()};
  ctx.backend.copy_groups(dqkv, whole, dq, whole, Write::kOverwrite);
  rope_.rotate(ctx, dq, {nope_, shape_.heads, shape_.head_dim, rotated_}, Direction::kInverse);
  Tensor dx = q_.backward(ctx, dq, saved.q_in);
  if (q_down_) {
    dx = q_down_->backward(ctx, q_norm_->backward(ctx, dx, saved.q_norm), saved.q_down_in);
  }
  return dx;
}

// Of x, through keys and values.
Tensor LatentAttention::kv_gradient(Context& ctx, const Tensor& dqkv, const Saved& saved) const {
  const std::int64_t h = shape_.heads;
  const std::int64_t width = shape_.head_dim;
  const std::int64_t pair = nope_ + shape_.v_dim;
  const Tensor dkv = ctx.empty(ctx.compute, {dqkv.dim(0), h * pair});
  ctx.backend.copy_groups(dqkv, {keys(), h, width, nope_}, dkv, {0, h, pair, nope_},
                          Write::kOverwrite);
  ctx.backend.copy_groups(dqkv, {values(), h, shape_.v_dim, shape_.v_dim}, dkv,
                          {nope_, h, pair, shape_.v_dim}, Write::kOverwrite);
  const Tensor ddown = ctx.zeros(DType::kF32, {dqkv.dim(0), latent_ + rotated_});
  ctx.backend.copy_groups(dqkv, {keys() + nope_, h, width, rotated_}, ddown,
                          {latent_, h, 0, rotated_}, Write::kAdd);
  rope_.rotate(ctx, ddown, {latent_, 1, 0, rotated_}, Direction::kInverse);
  const Tensor dlatent = kv_norm_.backward(ctx, kv_.backward(ctx, dkv, saved.kv_in), saved.kv_norm);
  const RowGroups whole{0, 1, 0, latent_};
  ctx.backend.copy_groups(dlatent, whole, ddown, whole, Write::kOverwrite);
  return kv_down_.backward(ctx, ddown, saved.kv_down_in);
}

Tensor LatentAttention::backward(Context& ctx, const Tensor& dy, const Saved& saved) const {
  const Tensor dout = output_.backward(ctx, dy, saved.out_in).reshaped(saved.out.shape());
  const Tensor dqkv = ctx.empty(ctx.compute, saved.qkv.shape());
  ctx.backend.attention_backward(dout, saved.qkv, saved.out, saved.lse, shape_,
                                 first_keys(ctx, window_), dqkv);
  Tensor dx = query_gradient(ctx, dqkv, saved);
  ctx.backend.add(kv_gradient(ctx, dqkv, saved), dx);
  return dx;
}

}  // namespace moesaic::model
