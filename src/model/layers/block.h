#pragma once

#include <string>
#include <variant>

#include "model/layers/attention.h"
#include "model/layers/latent_attention.h"
#include "model/layers/moe.h"
#include "model/layers/rms_norm.h"
#include "model/layers/swiglu.h"

namespace moesaic::model {

/// One pre-norm layer: x += attention(norm(x)); x += ffn(norm(x)), the ffn dense or a mixture.
/// x, y: (t, D) fp32, the rows that a rank of tp has outside. Collective over tp, cp and experts.
class Block {
 public:
  using SelfAttention = std::variant<Attention, LatentAttention>;
  using Ffn = std::variant<Swiglu, Moe>;
  struct Saved {
    RmsNorm::Saved attention_norm, ffn_norm;
    std::variant<Attention::Saved, LatentAttention::Saved> attention;
    std::variant<Swiglu::Saved, Moe::Saved> ffn;
  };

  Block(RmsNorm attention_norm, SelfAttention attention, RmsNorm ffn_norm, Ffn ffn);
  Tensor forward(Context& ctx, const Tensor& x, Saved* saved) const;
  Tensor backward(Context& ctx, const Tensor& dy, const Saved& saved) const;

  /// Elements of a page of the attention's cache, on this rank.
  std::int64_t page_elements() const;
  LayerCache make_cache(const Context& ctx, std::int64_t pages) const;

  const Moe* moe() const { return std::get_if<Moe>(&ffn_); }

 private:
  RmsNorm attention_norm_;
  SelfAttention attention_;
  RmsNorm ffn_norm_;
  Ffn ffn_;
};
static_assert(Layer<Block>);

}  // namespace moesaic::model
