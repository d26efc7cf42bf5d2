#pragma once

#include <optional>
#include <string>

#include "config/config.h"
#include "model/context.h"
#include "model/layers/linear.h"
#include "model/layers/qk_norm.h"
#include "model/layers/rope.h"

namespace moesaic::model {

/// What the product that joins the residual stream has: with model.output_bias a bias, which the
/// first rank of tp adds.
LinearOptions output_options(const std::string& prefix, const config::Model& model,
                             const Placement& placement);

/// Causal grouped-query self-attention with rotary positions, within each token's document and
/// perhaps a sliding window; queries and keys may be normed, clamped and joined by a sink.
/// Heads are split over tp; key and value heads are copied where there are fewer of them than
/// ranks. x: (T, D) compute   y: (T, D) fp32, this rank's term   Ainslie et al. 2023, Su et al.
/// 2021. Collective over cp, and over tp where a norm is over all heads.
class Attention {
 public:
  struct Saved {
    Linear::Saved qkv_in, out_in;
    Tensor qkv, out, lse;  // qkv: after the rotation
    Tensor raw;            // before norm and clamp, if there are any
    QkNorm::Saved norm;
  };

  /// prefix: "model.layers.N.self_attn."
  Attention(Parameters& parameters, const std::string& prefix, const config::Model& model,
            std::int64_t layer, double init_std, double output_std, const Placement& placement);
  Tensor forward(Context& ctx, const Tensor& x, Saved* saved) const;
  Tensor backward(Context& ctx, const Tensor& dy, const Saved& saved) const;  // dx: fp32

  /// What this rank keeps of each page, elements, and room for so many pages.
  std::int64_t page_elements() const;
  LayerCache make_cache(const Context& ctx, std::int64_t pages) const;

 private:
  RowGroups rotated() const;
  void attend(Context& ctx, const Saved& s) const;
  Tensor prepared(Context& ctx, const Tensor& raw, QkNorm::Saved& saved) const;

  std::size_t layer_;
  AttentionShape shape_;
  std::int64_t window_;
  float clip_;
  Rope rope_;
  Linear qkv_, output_;
  std::optional<QkNorm> norm_;
  Parameter* sinks_ = nullptr;  // (H)
};
static_assert(Layer<Attention>);

}  // namespace moesaic::model
