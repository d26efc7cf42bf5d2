#include "model/attention.h"

#include <cmath>

#include "base/share.h"

namespace moesaic::model {

namespace {

// Rows of whole heads.
PublicTensor head_rows(const std::string& name, std::int64_t heads, Slice own,
                       const AttentionSpec& spec) {
  return split_tensor(name, {heads * spec.head_dim, spec.d_model}, 0,
                      {own.begin * spec.head_dim, own.count * spec.head_dim});
}

PublicTensor kv_rows(const std::string& name, const AttentionSpec& spec) {
  const std::int64_t copies = kv_copies(spec.kv_heads, spec.place.tp);
  const Slice own = share_of(spec.kv_heads, spec.place.tp_rank / copies, spec.place.tp / copies);
  PublicTensor tensor = head_rows(name, spec.kv_heads, own, spec);
  tensor.copies = static_cast<int>(copies);
  tensor.copy = static_cast<int>(spec.place.tp_rank % copies);
  tensor.partial = copies > 1;
  return tensor;
}

AttentionShape own_heads(const AttentionSpec& spec) {
  return {.heads = spec.heads / spec.place.tp,
          .kv_heads = kv_heads_of_rank(spec.kv_heads, spec.place.tp),
          .head_dim = spec.head_dim,
          .v_dim = spec.head_dim,
          .scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(spec.head_dim)))};
}

// qkv as (T, H + 2 Hkv, hd).
Tensor by_heads(const Tensor& qkv, const AttentionShape& shape) {
  return qkv.reshaped({qkv.dim(0), shape.heads + 2 * shape.kv_heads, shape.head_dim});
}

}  // namespace

Attention::Attention(Parameters& parameters, const std::string& prefix, const AttentionSpec& spec)
    : shape_(own_heads(spec)),
      rope_theta_(static_cast<float>(spec.rope_theta)),
      qkv_(parameters,
           {head_rows(prefix + "q_proj.weight", spec.heads, spec.place.of(spec.heads), spec),
            kv_rows(prefix + "k_proj.weight", spec), kv_rows(prefix + "v_proj.weight", spec)},
           Linear::Full::kInputGradient, spec.init_std),
      output_(parameters,
              {split_tensor(prefix + "o_proj.weight", {spec.d_model, spec.heads * spec.head_dim}, 1,
                            {shape_.heads * shape_.head_dim * spec.place.tp_rank,
                             shape_.heads * shape_.head_dim})},
              Linear::Full::kOutput, spec.output_std) {}

Tensor Attention::forward(Context& ctx, const Tensor& x, Saved* saved) const {
  Saved local;
  Saved& s = saved != nullptr ? *saved : local;
  const std::int64_t tokens = x.dim(0);
  s.qkv = qkv_.forward(ctx, x, saved != nullptr ? &s.qkv_in : nullptr);
  ctx.backend.rope(by_heads(s.qkv, shape_), shape_.heads + shape_.kv_heads, ctx.batch.position,
                   rope_theta_, Direction::kForward);
  s.out = ctx.empty(ctx.compute, {tokens, shape_.heads, shape_.v_dim});
  s.lse = ctx.empty(DType::kF32, {tokens, shape_.heads});
  ctx.backend.attention(s.qkv, shape_, ctx.batch.first_key, s.out, s.lse);
  return output_.forward(ctx, s.out.reshaped({tokens, shape_.heads * shape_.v_dim}),
                         saved != nullptr ? &s.out_in : nullptr);
}

Tensor Attention::backward(Context& ctx, const Tensor& dy, const Saved& saved) const {
  const Tensor dout = output_.backward(ctx, dy, saved.out_in).reshaped(saved.out.shape());
  const Tensor dqkv = ctx.empty(ctx.compute, saved.qkv.shape());
  ctx.backend.attention_backward(dout, saved.qkv, saved.out, saved.lse, shape_, ctx.batch.first_key,
                                 dqkv);
  ctx.backend.rope(by_heads(dqkv, shape_), shape_.heads + shape_.kv_heads, ctx.batch.position,
                   rope_theta_, Direction::kInverse);
  return qkv_.backward(ctx, dqkv, saved.qkv_in);
}

}  // namespace moesaic::model
