#include "infer/reference.h"

#include <algorithm>

#include "config/layers.h"
#include "engine/pipeline.h"
#include "model/context_parallel.h"

namespace moesaic::infer {

ScoreReference::ScoreReference(engine::Instance& reference, engine::Instance& model,
                               const model::Context& ctx, const config::Config& config)
    : reference_(reference),
      model_(model),
      ctx_(reference.context(ctx.clock)),
      layers_(config.model.layers),
      by_layer_(includes(config.score.reference_detail, config::ReferenceDetail::kLayers)),
      by_expert_(includes(config.score.reference_detail, config::ReferenceDetail::kExperts)) {
  ctx_.batch.dropless = ctx.batch.dropless;
  if (by_layer_) {
    details_.layers.assign(static_cast<std::size_t>(layers_ + 1), 0.0);
  }
  if (by_expert_) {
    details_.expert_layers = config::moe_layers(config.model);
    expert_errors_.emplace(model.transformer, model.context(ctx.clock),
                           model.transformer.experts());
  }
}

void ScoreReference::forward(std::span<const data::MicroBatch> batches) {
  hidden_.assign(batches.size(), {});
  if (expert_errors_) {
    ctx_.observers = {expert_errors_->observer()};
  }
  engine::forward_all(reference_, ctx_, batches,
                      [&](std::size_t j, const Tensor& hidden) { hidden_[j] = hidden; });
  ctx_.observers.clear();
}

model::Head::Comparison ScoreReference::compare(model::Context& ctx, const data::MicroBatch& batch,
                                                std::size_t j, const Tensor& hidden) {
  model::set_batch(ctx_, batch);
  return model_.transformer.head().compare(ctx, hidden, ctx_, reference_.transformer.head(),
                                           hidden_[j]);
}

// Collective over tp and cp, on the last stage: adds what head says of rows that differ from
// hidden_[j]. One rank of cp adds those of all: sums are in the order of rows.
void ScoreReference::add_divergence(std::int64_t layer, const model::Head& head,
                                    const data::MicroBatch& batch, std::size_t j,
                                    const Tensor& hidden) {
  model::set_batch(ctx_, batch);
  const model::Head& original = reference_.transformer.head();
  std::vector<float> divergence = head.compare(ctx_, hidden, ctx_, original, hidden_[j]).divergence;
  if (!reference_.mesh.reports()) {
    return;
  }
  divergence = model::of_all_rows(ctx_, std::move(divergence), 1);
  for (std::size_t i = 0; reference_.mesh.counts() && i < divergence.size(); ++i) {
    if (batch.target[i] >= 0) {
      details_.layers[static_cast<std::size_t>(layer)] += static_cast<double>(divergence[i]);
    }
  }
}

// The model's weights are those of the reference meanwhile.
void ScoreReference::forward_layers(std::span<const data::MicroBatch> batches) {
  if (!by_layer_) {
    return;
  }
  for (std::int64_t layer = 0; layer < layers_; ++layer) {
    model::swap_layer_weights(model_.parameters, reference_.parameters, layer);
    engine::forward_all(reference_, ctx_, batches, [&](std::size_t j, const Tensor& hidden) {
      add_divergence(layer, reference_.transformer.head(), batches[j], j, hidden);
    });
    model::swap_layer_weights(model_.parameters, reference_.parameters, layer);
  }
  const bool last_stage =
      model_.mesh[comm::Group::kPp].rank() == model_.mesh[comm::Group::kPp].size() - 1;
  if (last_stage && model_.transformer.head().is_quantized()) {
    for (std::size_t j = 0; j < batches.size(); ++j) {
      add_divergence(layers_, model_.transformer.head(), batches[j], j, hidden_[j]);
    }
  }
}

record::ReferenceDetails ScoreReference::take_details() {
  record::ReferenceDetails taken = details_;
  std::fill(details_.layers.begin(), details_.layers.end(), 0.0);
  if (expert_errors_) {
    const model::ExpertErrors::Sums& sums = expert_errors_->sums();
    taken.expert_tokens = sums.rows;
    taken.expert_squares = sums.squares;
    taken.expert_errors = sums.errors;
    expert_errors_->clear();
  }
  for (std::vector<double>* const list :
       {&taken.layers, &taken.expert_tokens, &taken.expert_squares, &taken.expert_errors}) {
    reference_.mesh.world.all_reduce(std::span(*list), comm::Reduce::kSum);
  }
  return taken;
}

}  // namespace moesaic::infer
