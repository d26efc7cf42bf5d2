#pragma once

#include <optional>
#include <vector>

#include "config/config.h"
#include "model/layers/block.h"
#include "model/layers/embedding.h"
#include "model/layers/head.h"
#include "model/parameter/parameters.h"
#include "routing/gate_state.h"

namespace moesaic::model {

/// This rank's part of a decoder-only language model: embedding, blocks, final norm, head. A
/// pipeline stage has one or more chunks of consecutive layers; the first chunk of all begins with
/// the embedding, the last ends with norm and head. The config must be resolved (no zeros that
/// stand for derived values). Forward and backward are collective over tp, cp and experts.
class Transformer {
 public:
  /// What backward needs of one chunk and one micro-batch.
  struct Saved {
    std::vector<Block::Saved> blocks;
    std::vector<Tensor> inputs;  // of the blocks, instead, when they are computed again
    std::vector<Routes> routes;  // of their mixtures, then
    RmsNorm::Saved norm;
  };

  /// gates: as the checkpoint has them that gives the values, else empty.
  Transformer(Parameters& parameters, const config::Model& model, const config::Router& router,
              const Placement& placement, const routing::GateState& gates = {});

  /// chunk: of this stage. x: (t, D) fp32 from the chunk before, ignored by the first of all.
  /// Returns (t, D) fp32 for the next chunk; the last of all: (t, D) compute, what the head reads.
  Tensor forward(Context& ctx, int chunk, const Tensor& x, Saved* saved) const;
  /// dy: (t, D) fp32. Adds into every gradient; returns dx, unless nothing is trained below.
  Tensor backward(Context& ctx, int chunk, const Tensor& dy, const Saved& saved) const;

  /// Numbers in one page of the cache in all layers of this rank; they have the compute dtype.
  std::int64_t page_elements() const;
  /// Room for so many pages of keys and values, for this rank's layers and heads.
  PagedCache make_cache(const Context& ctx, std::int64_t pages) const;

  int chunks() const { return static_cast<int>(chunks_.size()); }
  bool begins(int chunk) const { return embedding_.has_value() && chunk == 0; }
  bool ends(int chunk) const { return head_.has_value() && chunk + 1 == chunks(); }
  /// Whether anything is trained in a chunk, or in one before it: on whichever rank it lies. Only
  /// then has it a backward.
  bool has_backward(int chunk) const;
  /// Whether it has one that gives a gradient to the chunk before.
  bool sends_gradient(int chunk) const;
  /// Whether the gradient of what the head reads is of use.
  bool wants_hidden_gradient() const { return lowest_part_ <= layers_ + 1; }

  std::int64_t width() const { return width_; }  // D
  /// The output head; only the last stage has one.
  const Head& head() const { return *head_; }
  /// The layer_index of each MoE layer of the whole model.
  const std::vector<std::int64_t>& moe_layers() const { return moe_layers_; }
  /// The expert pool of each MoE layer of the whole model.
  const std::vector<routing::ExpertPool>& expert_pools() const { return expert_pools_; }
  /// All numbers that experts have or had; the same in every layer (routing::expert_numbers).
  std::int64_t experts() const { return experts_; }
  /// nullptr: on another stage.
  const Moe* moe(std::int64_t moe_layer) const;

 private:
  struct Chunk {
    Slice layers;
    int first_part = 0;  // of this rank's parameters: that of the first block
    std::vector<Block> blocks;
  };
  const Chunk& at(int chunk) const { return chunks_[static_cast<std::size_t>(chunk)]; }
  // The first of a chunk's blocks that backward reaches; their number, if it reaches none.
  std::size_t first_in_backward(const Chunk& chunk) const;

  std::int64_t width_, layers_, experts_;
  std::int64_t lowest_part_;  // with anything trained (Roles::lowest_part)
  int last_part_ = 0;         // of this rank's parameters: norm and head
  std::optional<Embedding> embedding_;
  std::vector<Chunk> chunks_;
  std::vector<std::int64_t> moe_layers_;
  std::vector<routing::ExpertPool> expert_pools_;
  std::optional<RmsNorm> norm_;
  std::optional<Head> head_;
};

/// Makes micro_batch the current one of the context.
void set_batch(Context& ctx, const data::MicroBatch& micro_batch);

}  // namespace moesaic::model
