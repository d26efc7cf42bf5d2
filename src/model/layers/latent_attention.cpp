#include "model/layers/latent_attention.h"

#include <cmath>
#include <vector>

#include "backend/transfer.h"
#include "base/share.h"
#include "config/layers.h"
#include "model/context_parallel.h"
#include "model/layers/attention.h"

namespace moesaic::model {
namespace {

constexpr float kNormEps = 1e-6F;  // of the latent vectors, whatever the model's is (DeepSeek)

// Rows of whole heads, `width` for each.
PublicTensor head_rows(const std::string& name, std::int64_t width, std::int64_t inputs,
                       const config::Model& model, const Placement& placement) {
  const Slice own = placement.of(model.heads);
  return split_tensor(name, {model.heads * width, inputs}, 0,
                      {own.begin * width, own.count * width});
}

// Every rank of tp computes it and, as it goes on with its own heads, has a part of its gradient.
Linear make_down(Parameters& parameters, const std::string& name, std::int64_t rows,
                 const config::Model& model, double init_std, const Placement& placement) {
  LinearOptions options;
  options.sum = SumOver::kStage;
  return {parameters,          {copied_tensor(name, {rows, model.d_model}, placement)},
          Linear::Full::kBoth, init_std,
          placement,           options};
}

// Its parts are read by heads as well.
LinearOptions heads_options() {
  LinearOptions options;
  options.packable = false;
  return options;
}

AttentionShape own_heads(const config::Model& model, const Placement& placement) {
  const std::int64_t width = config::key_width(model);
  const std::int64_t heads = placement.of(model.heads).count;
  return {.heads = heads,
          .kv_heads = heads,
          .head_dim = width,
          .v_dim = config::value_width(model),
          .scale =
              static_cast<float>(yarn_score_factor(model) / std::sqrt(static_cast<double>(width)))};
}

std::optional<Linear> make_q_down(Parameters& parameters, const std::string& prefix,
                                  const config::Model& model, double init_std,
                                  const Placement& placement) {
  return model.q_lora_rank == 0
             ? std::nullopt
             : std::optional(make_down(parameters, prefix + "q_a_proj.weight", model.q_lora_rank,
                                       model, init_std, placement));
}

std::optional<RmsNorm> make_q_norm(Parameters& parameters, const std::string& prefix,
                                   const config::Model& model, const Placement& placement) {
  return model.q_lora_rank == 0
             ? std::nullopt
             : std::optional(RmsNorm(parameters, prefix + "q_a_layernorm.weight", model.q_lora_rank,
                                     kNormEps, placement, true));
}

// Rows of (token, head) in the order of (head, token), and back; offsets of the heads.
struct HeadOrder {
  Tensor by_head, by_token;  // (T H) int32
  Tensor offsets;            // (H + 1) int32
};

HeadOrder order_of(const Context& ctx, std::int64_t tokens, std::int64_t heads) {
  std::vector<std::int32_t> by_head(static_cast<std::size_t>(tokens * heads));
  std::vector<std::int32_t> by_token(by_head.size());
  std::vector<std::int32_t> offsets{0};
  for (std::int64_t h = 0; h < heads; ++h) {
    for (std::int64_t t = 0; t < tokens; ++t) {
      by_head[static_cast<std::size_t>(h * tokens + t)] = static_cast<std::int32_t>(t * heads + h);
      by_token[static_cast<std::size_t>(t * heads + h)] = static_cast<std::int32_t>(h * tokens + t);
    }
    offsets.push_back(static_cast<std::int32_t>((h + 1) * tokens));
  }
  return {to_device(ctx.backend, by_head, {tokens * heads}),
          to_device(ctx.backend, by_token, {tokens * heads}),
          to_device(ctx.backend, offsets, {heads + 1})};
}

}  // namespace

LatentAttention::LatentAttention(Parameters& parameters, const std::string& prefix,
                                 const config::Model& model, std::int64_t layer, double init_std,
                                 double output_std, const Placement& placement)
    : layer_(static_cast<std::size_t>(layer)),
      nope_(model.qk_nope_head_dim),
      rotated_(model.qk_rope_head_dim),
      latent_(model.kv_lora_rank),
      shape_(own_heads(model, placement)),
      window_(config::is_windowed(model, layer) ? model.sliding_window : 0),
      rope_(parameters, model, rotated_),
      q_down_(make_q_down(parameters, prefix, model, init_std, placement)),
      q_norm_(make_q_norm(parameters, prefix, model, placement)),
      q_(parameters,
         {head_rows(prefix + (q_down_ ? "q_b_proj.weight" : "q_proj.weight"), shape_.head_dim,
                    q_down_ ? model.q_lora_rank : model.d_model, model, placement)},
         Linear::Full::kInputGradient, init_std, placement),
      kv_down_(make_down(parameters, prefix + "kv_a_proj_with_mqa.weight", latent_ + rotated_,
                         model, init_std, placement)),
      kv_norm_(parameters, prefix + "kv_a_layernorm.weight", latent_, kNormEps, placement, true),
      kv_(parameters,
          {head_rows(prefix + "kv_b_proj.weight", nope_ + shape_.v_dim, latent_, model, placement)},
          Linear::Full::kInputGradient, init_std, placement, heads_options()),
      output_(
          parameters,
          {split_tensor(prefix + "o_proj.weight", {model.d_model, model.heads * shape_.v_dim}, 1,
                        {placement.of(model.heads).begin * shape_.v_dim,
                         placement.of(model.heads).count * shape_.v_dim})},
          Linear::Full::kOutput, output_std, placement, output_options(prefix, model, placement)) {}

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

LayerCache LatentAttention::make_cache(const Context& ctx, std::int64_t pages) const {
  const std::int64_t h = shape_.heads;
  const Tensor heads = kv_.weight().reshaped({h, (nope_ + shape_.v_dim) * latent_});
  const auto part = [&](std::int64_t first, std::int64_t rows) {
    const Tensor to = ctx.empty(ctx.compute, {h, rows * latent_});
    ctx.backend.copy_groups(heads, {first * latent_, 1, 0, rows * latent_}, to,
                            {0, 1, 0, rows * latent_}, Write::kOverwrite);
    return to.reshaped({h, rows, latent_});
  };
  return {.keys = ctx.empty(ctx.compute, {pages, 1, kPageTokens, latent_ + rotated_}),
          .values = {},
          .key_up = part(0, nope_),
          .value_up = part(nope_, shape_.v_dim)};
}

// q (T, H (n + r)), latent (T, R) normed, down (T, R + r) with the rotated part. Returns (T, H v).
// The products of a head want its rows together: they are copied there and back.
Tensor LatentAttention::attend(Context& ctx, const Tensor& q, const Tensor& latent,
                               const Tensor& down) const {
  const LayerCache& cache = ctx.batch.cache->at(layer_);
  const PagedRuns& runs = ctx.batch.device.runs;
  const std::int64_t tokens = q.dim(0);
  const std::int64_t h = shape_.heads;
  const std::int64_t rows = tokens * h;
  const std::int64_t width = latent_ + rotated_;
  const Tensor entry = ctx.empty(ctx.compute, {tokens, width});
  ctx.backend.copy_groups(latent, {0, 1, 0, latent_}, entry, {0, 1, 0, latent_}, Write::kOverwrite);
  ctx.backend.copy_groups(down, {latent_, 1, 0, rotated_}, entry, {latent_, 1, 0, rotated_},
                          Write::kOverwrite);
  ctx.backend.store_in_pages(entry, {0, 1, 0, width}, runs, cache.keys);

  const HeadOrder order = order_of(ctx, tokens, h);
  // (T H, R + r): what meets the compressed keys; what is on the way to it is held no longer.
  const Tensor query = [&] {
    const Tensor by_head = ctx.empty(ctx.compute, {rows, shape_.head_dim});
    ctx.backend.gather_rows(q.reshaped({rows, shape_.head_dim}), order.by_head, by_head);
    const Tensor nope = ctx.empty(ctx.compute, {rows, nope_});
    ctx.backend.copy_groups(by_head, {0, 1, 0, nope_}, nope, {0, 1, 0, nope_}, Write::kOverwrite);
    const Tensor absorbed = ctx.empty(ctx.compute, {rows, latent_});
    ctx.backend.grouped_matmul_dx(nope, order.offsets, cache.key_up, absorbed);
    const Tensor wide = ctx.empty(ctx.compute, {rows, width});
    ctx.backend.copy_groups(absorbed, {0, 1, 0, latent_}, wide, {0, 1, 0, latent_},
                            Write::kOverwrite);
    ctx.backend.copy_groups(by_head, {nope_, 1, 0, rotated_}, wide, {latent_, 1, 0, rotated_},
                            Write::kOverwrite);
    Tensor made = ctx.empty(ctx.compute, {rows, width});
    ctx.backend.gather_rows(wide, order.by_token, made);
    return made;
  }();

  const Tensor mixed = ctx.empty(ctx.compute, {tokens, h, latent_});
  ctx.backend.attention({query.reshaped({tokens, h * width}), {0, h, width, width}},
                        {cache.keys, {}, runs}, keys_in(ctx, window_).visible, shape_.scale, mixed,
                        ctx.empty(DType::kF32, {tokens, h}));
  const Tensor mixed_by_head = ctx.empty(ctx.compute, {rows, latent_});
  ctx.backend.gather_rows(mixed.reshaped({rows, latent_}), order.by_head, mixed_by_head);
  const Tensor values = ctx.empty(ctx.compute, {rows, shape_.v_dim});
  ctx.backend.grouped_matmul(mixed_by_head, order.offsets, cache.value_up, values);
  const Tensor out = ctx.empty(ctx.compute, {rows, shape_.v_dim});
  ctx.backend.gather_rows(values, order.by_token, out);
  return out.reshaped({tokens, h * shape_.v_dim});
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
  const Tensor normed = kv_norm_.forward(ctx, latent, &s.kv_norm);
  if (ctx.batch.cache != nullptr) {
    return output_.forward(ctx, attend(ctx, q, normed, down), &s.out_in);
  }
  const Tensor kv = kv_.forward(ctx, normed, &s.kv_in);

  s.qkv = fuse(ctx, q, kv, down);
  s.out = ctx.empty(ctx.compute, {tokens, shape_.heads, shape_.v_dim});
  s.lse = ctx.empty(DType::kF32, {tokens, shape_.heads});
  attend_to_context(ctx, s.qkv, shape_, window_, s.out, s.lse);
  return output_.forward(ctx, s.out.reshaped({tokens, shape_.heads * shape_.v_dim}), &s.out_in);
}

// dx (t, D): the part that comes through the queries.
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

// dx (t, D): the part that comes through keys and values.
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
  attend_to_context_backward(ctx, dout, saved.qkv, shape_, window_, saved.out, saved.lse, dqkv);
  Tensor dx = query_gradient(ctx, dqkv, saved);
  ctx.backend.add(kv_gradient(ctx, dqkv, saved), dx);
  return dx;
}

}  // namespace moesaic::model
