#pragma once

#include <vector>

#include "config/config.h"
#include "model/block.h"
#include "model/head.h"
#include "model/parameters.h"

namespace moesaic::model {

/// A decoder-only language model: embedding, blocks, final norm, head. The config must be resolved
/// (no zeros that stand for derived values). Forward and backward are collective over ep.
class Transformer {
 public:
  struct Saved {
    std::vector<Block::Saved> blocks;
    RmsNorm::Saved norm;
  };

  /// ep_rank of ep_size: the share of the experts that this rank holds.
  Transformer(Parameters& parameters, const config::Model& model, const config::Router& router,
              int ep_rank, int ep_size);

  /// ctx.batch's tokens -> (T, D) compute, what the head reads.
  Tensor forward(Context& ctx, Saved* saved) const;
  /// dhidden: (T, D) fp32. Adds into every gradient.
  void backward(Context& ctx, const Tensor& dhidden, const Saved& saved) const;

  const Head& head() const { return head_; }
  /// The layer_index of each MoE layer, and its router.
  const std::vector<std::int64_t>& moe_layers() const { return moe_layers_; }
  const Router& router(std::int64_t moe_layer) const;

 private:
  Parameter& embedding_;
  std::vector<Block> blocks_;
  std::vector<std::int64_t> moe_layers_;
  RmsNorm norm_;
  Head head_;
};

/// Makes micro_batch the current one of the context.
void set_batch(Context& ctx, const MicroBatch& micro_batch);

}  // namespace moesaic::model
