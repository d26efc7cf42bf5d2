#include "engine/pipeline.h"

#include <algorithm>

#include "base/error.h"
#include "base/share.h"
#include "model/tensor_parallel.h"

namespace moesaic::engine {
namespace {

// Step i of one direction: groups of `stages` micro-batches go through one chunk after the other.
PipelineStep step_at(Pass pass, int i, int stages, int chunks) {
  const int group = i / (stages * chunks);
  const int in_group = i % (stages * chunks);
  const int chunk = in_group / stages;
  return {.pass = pass,
          .micro_batch = group * stages + in_group % stages,
          .chunk = pass == Pass::kForward ? chunk : chunks - 1 - chunk};
}

}  // namespace

std::vector<PipelineStep> training_order(int stage, int stages, int chunks, int micro_batches) {
  require(chunks == 1 || micro_batches % stages == 0,
          "an interleaved schedule needs a multiple of `stages` micro-batches");
  const int total = micro_batches * chunks;
  const int warm_up = std::min(total, static_cast<int>(chunks_ahead(stage, stages, chunks)));
  const int width = chunks == 1 ? 1 : stages;  // of a group; with one chunk the order is plain
  std::vector<PipelineStep> order;
  for (int i = 0; i < total + warm_up; ++i) {
    if (i < total) {
      order.push_back(step_at(Pass::kForward, i, width, chunks));
    }
    if (i >= warm_up) {
      order.push_back(step_at(Pass::kBackward, i - warm_up, width, chunks));
    }
  }
  return order;
}

std::vector<PipelineStep> forward_order(int stages, int chunks, int micro_batches) {
  std::vector<PipelineStep> order;
  for (int first = 0; first < micro_batches; first += stages) {
    for (int chunk = 0; chunk < chunks; ++chunk) {
      for (int i = first; i < std::min(micro_batches, first + stages); ++i) {
        order.push_back({.pass = Pass::kForward, .micro_batch = i, .chunk = chunk});
      }
    }
  }
  return order;
}

int StageLink::global_chunk(const PipelineStep& step) const {
  const comm::Communicator& pp = instance_.mesh[comm::Group::kPp];
  return step.chunk * pp.size() + pp.rank();
}

// By the chunk that sends it and its direction. Both ends go through the micro-batches of a chunk
// in ascending order, and MPI keeps messages of one tag in order, so that a tag, which MPI limits,
// need not count micro-batches.
int StageLink::tag(const PipelineStep& step, int from_chunk) {
  return 2 * from_chunk + (step.pass == Pass::kForward ? 0 : 1);
}

Tensor StageLink::receive(model::Context& ctx, const PipelineStep& step) {
  const model::Transformer& model = instance_.transformer;
  const bool forward = step.pass == Pass::kForward;
  if (forward ? model.begins(step.chunk) : model.ends(step.chunk)) {
    return {};
  }
  const std::int64_t rows = ctx.sequence ? model::own_rows(ctx).count : ctx.batch.host->size();
  Tensor input = ctx.empty(DType::kF32, {rows, model.width()});
  const int ranks = instance_.mesh[comm::Group::kPp].size();
  const int from_chunk = global_chunk(step) + (forward ? -1 : 1);
  instance_[comm::Group::kPp].receive(input, from_chunk % ranks, tag(step, from_chunk));
  return input;
}

void StageLink::send(const PipelineStep& step, const Tensor& result) {
  const model::Transformer& model = instance_.transformer;
  const bool forward = step.pass == Pass::kForward;
  if (forward ? model.ends(step.chunk) : !model.sends_gradient(step.chunk)) {
    return;
  }
  comm::Collectives& pp = instance_[comm::Group::kPp];
  const int stages = pp.group().size();
  const int to_chunk = global_chunk(step) + (forward ? 1 : -1);
  pp.start_send(result, to_chunk % stages, tag(step, global_chunk(step)));
  if (!model.has_backward(step.chunk)) {  // nothing else holds it back
    pp.finish(static_cast<std::size_t>(stages) * static_cast<std::size_t>(model.chunks()));
  }
}

void forward_all(Instance& instance, model::Context& ctx, std::span<const data::MicroBatch> batches,
                 const std::function<void(std::size_t i, const Tensor& hidden)>& done) {
  const model::Transformer& model = instance.transformer;
  StageLink link(instance);
  for (const PipelineStep& step : forward_order(instance.mesh[comm::Group::kPp].size(),
                                                model.chunks(), static_cast<int>(batches.size()))) {
    const auto i = static_cast<std::size_t>(step.micro_batch);
    model::set_batch(ctx, batches[i]);
    const Tensor result = model.forward(ctx, step.chunk, link.receive(ctx, step), nullptr);
    link.send(step, result);
    if (model.ends(step.chunk)) {
      done(i, result);
    }
  }
  link.finish();
}

}  // namespace moesaic::engine
