#pragma once

#include <string>

#include "model/context.h"
#include "model/linear.h"

namespace moesaic::model {

struct AttentionSpec {
  std::int64_t d_model, heads, kv_heads, head_dim;
  double rope_theta, init_std, output_std;
  Placement place;
};

/// Causal grouped-query self-attention with rotary positions, within each token's document.
/// Heads are split over tp; key and value heads are copied where there are fewer of them than
/// ranks. x: (T, D) compute   y: (T, D) fp32, this rank's term   Ainslie et al. 2023, Su et al.
/// 2021
class Attention {
 public:
  struct Saved {
    Linear::Saved qkv_in, out_in;
    Tensor qkv, out, lse;  // qkv: after the rotation
  };

  /// prefix: "model.layers.N.self_attn."
  Attention(Parameters& parameters, const std::string& prefix, const AttentionSpec& spec);
  Tensor forward(Context& ctx, const Tensor& x, Saved* saved) const;
  Tensor backward(Context& ctx, const Tensor& dy, const Saved& saved) const;  // dx: fp32

 private:
  AttentionShape shape_;
  float rope_theta_;
  Linear qkv_, output_;
};
static_assert(Layer<Attention>);

}  // namespace moesaic::model
