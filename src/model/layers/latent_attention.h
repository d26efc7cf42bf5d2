#pragma once

#include <optional>
#include <string>

#include "config/config.h"
#include "model/context.h"
#include "model/layers/linear.h"
#include "model/layers/rms_norm.h"
#include "model/layers/rope.h"

namespace moesaic::model {

/// Causal multi-head latent attention (DeepSeek-V2, section 2.1): keys and values of all heads are
/// made from a latent vector of R numbers and one rotated key part that the heads share; queries
/// from a latent vector as well, or directly.
///   [c | k_rope] = W_a x    [k_nope | v] of each head = W_b norm(c)    k = [k_nope | rot(k_rope)]
///   q = [q_nope | rot(q_rope)] = W_qb norm(W_qa x), or W_q x
/// Heads are split over tp; the latent vectors are computed on each of its ranks.
/// x: (T, D) compute   y: (T, D) fp32, this rank's term. Collective over cp, and over tp where
/// Linear is.
class LatentAttention {
 public:
  struct Saved {
    Linear::Saved q_down_in, q_in, kv_down_in, kv_in, out_in;
    RmsNorm::Saved q_norm, kv_norm;
    Tensor qkv, out, lse;  // qkv: after the rotation
  };

  /// prefix: "model.layers.N.self_attn."
  LatentAttention(Parameters& parameters, const std::string& prefix, const config::Model& model,
                  std::int64_t layer, double init_std, double output_std,
                  const Placement& placement);
  Tensor forward(Context& ctx, const Tensor& x, Saved* saved) const;
  Tensor backward(Context& ctx, const Tensor& dy, const Saved& saved) const;  // dx: fp32

  /// With a cache a token keeps [norm(c) | rot(k_rope)] alone, and W_b moves to the queries and the
  /// results (section 2.1.2): q_nope W_bk against the latent vectors as one key that all heads
  /// share, which are the values, too; then W_bv. The same numbers but for rounding.
  /// Elements of a page on this rank, and room for so many pages.
  std::int64_t page_elements() const { return kPageTokens * (latent_ + rotated_); }
  LayerCache make_cache(const Context& ctx, std::int64_t pages) const;

 private:
  // The groups of the fused tensor's heads, and what is made of it.
  std::int64_t keys() const { return shape_.heads * shape_.head_dim; }
  std::int64_t values() const { return 2 * keys(); }
  Tensor fuse(Context& ctx, const Tensor& q, const Tensor& kv, const Tensor& down) const;
  Tensor attend(Context& ctx, const Tensor& q, const Tensor& latent, const Tensor& down) const;
  Tensor query_gradient(Context& ctx, const Tensor& dqkv, const Saved& saved) const;
  Tensor kv_gradient(Context& ctx, const Tensor& dqkv, const Saved& saved) const;

  std::size_t layer_;
  std::int64_t nope_, rotated_, latent_;  // widths of a key's two parts, and R
  AttentionShape shape_;
  std::int64_t window_;
  Rope rope_;
  std::optional<Linear> q_down_;
  std::optional<RmsNorm> q_norm_;
  Linear q_, kv_down_;
  RmsNorm kv_norm_;
  Linear kv_, output_;
};
static_assert(Layer<LatentAttention>);

}  // namespace moesaic::model
