#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <vector>

#include "engine/instance.h"
#include "model/moe_stats.h"

namespace moesaic::train {

/// Rows of a parameter whose update counts its steps by itself.
struct UpdateRows {
  Slice rows;             // of the trained rows that this rank owns
  std::int64_t step = 0;  // number of this update, from 1
};

/// router.gradient_buffer: an expert's summed gradient is deferred until the expert has processed
/// so many tokens of the global batches since its last update. Then g = sum / deferred steps, one
/// AdamW update with the expert's own step count, and it begins anew. Meanwhile neither moments nor
/// values change. So a handful of tokens does not change an expert that is rarely used.
class GradientBuffer {
 public:
  /// tokens: 0: no gradient is deferred. The instance must outlive it.
  GradientBuffer(engine::Instance& instance, std::int64_t tokens)
      : instance_(instance), tokens_(tokens) {}

  /// After the gradients of a step are summed: adds what is deferred, and makes the mean of it
  /// for those experts whose update is due. Changes nothing but gradients. stats: of the step, over
  /// all ranks.
  void add_deferred(model::MoeStats& stats);
  /// After the update: keeps the gradients of experts that were not due, and counts.
  void hold(model::MoeStats& stats);
  /// What this step updates of a parameter.
  std::vector<UpdateRows> updates(const model::Parameter& p, std::int64_t step) const;

 private:
  struct Expert {
    std::size_t index = 0;  // among those of this rank
    float steps = 0, updates = 0;
    bool due = false;
  };
  using Visit = std::function<void(const model::Parameter&, Slice rows, const Expert&)>;
  /// Visits each parameter of each expert of this rank, with the rows of it that this rank owns.
  void for_each_expert(model::MoeStats& stats, const Visit& visit) const;
  std::vector<Expert> experts(const model::Moe& moe, std::int64_t layer,
                              model::MoeStats& stats) const;
  void read_states(std::int64_t layers);
  void count(const model::Moe& moe, std::int64_t layer, model::MoeStats& stats);

  engine::Instance& instance_;
  const std::int64_t tokens_;
  std::map<const model::Parameter*, std::vector<UpdateRows>> due_;  // of the buffered ones
  // All experts' steps, tokens and updates before this step, by layer.
  std::map<std::int64_t, std::vector<float>> states_;
};

}  // namespace moesaic::train
