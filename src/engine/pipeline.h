#pragma once

#include <functional>
#include <span>
#include <vector>

#include "engine/instance.h"

namespace moesaic::engine {

enum class Pass { kForward, kBackward };

/// One chunk of one micro-batch, in one direction.
struct PipelineStep {
  Pass pass;
  int micro_batch;
  int chunk;  // of the stage
  bool operator==(const PipelineStep&) const = default;
};

/// What a stage computes, in order. One chunk for each stage: 1F1B (Narayanan et al. 2019), at most
/// `stages` micro-batches in flight. Several: interleaved (Narayanan et al. 2021, section 2.2);
/// then stages must divide micro_batches.
std::vector<PipelineStep> training_order(int stage, int stages, int chunks, int micro_batches);
/// Forward alone, in micro-batches of `stages` at a time for each chunk.
std::vector<PipelineStep> forward_order(int stages, int chunks, int micro_batches);

/// What this stage gets from its neighbours and sends to them.
class StageLink {
 public:
  explicit StageLink(Instance& instance) : instance_(instance) {}

  /// Waits for the input of a step from the stage that has it: (t, D) fp32 of the context's
  /// micro-batch; nothing where the model begins or ends. Not collective.
  Tensor receive(model::Context& ctx, const PipelineStep& step);
  /// Passes a step's result on, unless it is the last of its direction. Returns at once.
  void send(const PipelineStep& step, const Tensor& result);
  /// Waits until everything has been sent.
  void finish() { instance_[comm::Group::kPp].finish(); }

 private:
  int global_chunk(const PipelineStep& step) const;
  static int tag(const PipelineStep& step, int from_chunk);

  Instance& instance_;
};

/// Forward through all stages without keeping anything. done(i, hidden) is called on the last stage
/// for each micro-batch, which is the context's then. Collective over the mesh but dp.
void forward_all(Instance& instance, model::Context& ctx, std::span<const data::MicroBatch> batches,
                 const std::function<void(std::size_t i, const Tensor& hidden)>& done);

}  // namespace moesaic::engine
