#pragma once

#include <optional>
#include <span>
#include <vector>

#include "engine/instance.h"
#include "model/expert_errors.h"
#include "record/scores.h"

namespace moesaic::infer {

/// The model of score.reference beside the scored one, on the same ranks. Everything is collective
/// over the mesh but dp, and compare over tp of the last stage, where each rank of cp says what it
/// knows of its own rows.
class ScoreReference {
 public:
  /// `reference` and `model` must outlive this; ctx is the model's.
  ScoreReference(engine::Instance& reference, engine::Instance& model, const model::Context& ctx,
                 const config::Config& config);

  /// The reference's pass over the batches of an iteration, and the experts' errors in it.
  void forward(std::span<const data::MicroBatch> batches);
  /// The two of them on batch j of the iteration; hidden: what the head of the model reads.
  model::Head::Comparison compare(model::Context& ctx, const data::MicroBatch& batch, std::size_t j,
                                  const Tensor& hidden);
  /// Where wanted, a pass for each layer of the reference that has its weights from the model.
  void forward_layers(std::span<const data::MicroBatch> batches);

  /// Collective over the mesh: the details since the last call, summed over all ranks.
  record::ReferenceDetails take_details();

 private:
  void add_divergence(std::int64_t layer, const model::Head& head, const data::MicroBatch& batch,
                      std::size_t j, const Tensor& hidden);

  engine::Instance& reference_;
  engine::Instance& model_;
  model::Context ctx_;  // of the reference
  std::int64_t layers_;
  bool by_layer_, by_expert_;
  record::ReferenceDetails details_;  // of this rank; the experts' sums are in expert_errors_
  std::optional<model::ExpertErrors> expert_errors_;
  std::vector<Tensor> hidden_;  // of each batch, on the last stage
};

}  // namespace moesaic::infer
