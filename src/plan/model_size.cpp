#include "plan/model_size.h"

#include <algorithm>

#include "config/layers.h"
#include "plan/rank_model.h"

namespace moesaic::plan {
namespace {

/// The class of a public tensor, by its name.
Count& class_of(ModelSize& size, std::string_view name) {
  const auto has = [&](std::string_view part) { return name.find(part) != std::string_view::npos; };
  return has("embed_tokens")                            ? size.embedding
         : has("lm_head")                               ? size.head
         : has(".self_attn.")                           ? size.attention
         : has(".experts.")                             ? size.experts
         : has(".shared_expert")                        ? size.shared_experts
         : has(".mlp.gate.") || has(".experts_buffer.") ? size.router
         : has(".mlp.")                                 ? size.dense_ff
                                                        : size.norms;
}

/// Keys that a token of a sequence sees on average, of at most `window`.
double mean_keys(std::int64_t length, std::int64_t window) {
  const auto n = static_cast<double>(length);
  const auto w = static_cast<double>(std::min(length, window));
  return w - 0.5 * w * (w - 1.0) / n;
}

}  // namespace

std::array<std::pair<std::string_view, Count>, 8> ModelSize::classes() const {
  return {{{"embedding", embedding},
           {"attention", attention},
           {"dense layers", dense_ff},
           {"router", router},
           {"experts", experts},
           {"shared experts", shared_experts},
           {"norms", norms},
           {"head", head}}};
}

Count ModelSize::sum() const {
  Count all;
  for (const auto& [name, count] : classes()) {
    all.total += count.total;
    all.active += count.active;
    all.multiplied += count.multiplied;
    all.passed += count.passed;
    all.trained += count.trained;
  }
  return all;
}

ModelSize model_size(const config::Config& config, const routing::GateState& gates,
                     const model::Tuning& tuning) {
  const RankModel whole(config, {}, 0, gates, -1, tuning);
  const std::int64_t layers = config.model.layers;
  ModelSize size;
  size.layers_passed = std::clamp<std::int64_t>(layers + 1 - tuning.roles.lowest_part(), 0, layers);
  for (const model::Parameter& parameter : whole.parameters.all()) {
    for (const model::PublicTensor& tensor : parameter.spec.tensors) {
      const std::int64_t elements = tensor.shape.numel();
      const bool multiplies =
          tensor.shape.rank() == 2 && (parameter.spec.in_products || !parameter.spec.looked_up);
      Count& count = class_of(size, tensor.name);
      ++size.tensors;
      count.total += elements;
      count.active += elements;
      count.multiplied += multiplies ? elements : 0;
      const bool trained = parameter.trained_rows_with(tensor).count > 0;
      count.passed += multiplies && parameter.part >= tuning.roles.lowest_part() ? elements : 0;
      count.trained += multiplies && trained ? elements : 0;
      size.trained += trained ? elements : 0;
    }
  }
  // A token meets top_k experts of each layer, which are all of one size.
  std::int64_t experts = 0;
  for (const routing::ExpertPool& expert_pool : whole.transformer.expert_pools()) {
    experts += expert_pool.size() - expert_pool.count(ExpertState::kRetired);
  }
  const std::int64_t chosen = std::ssize(whole.transformer.moe_layers()) * config.model.top_k;
  for (std::int64_t* part : {&size.experts.active, &size.experts.multiplied, &size.experts.passed,
                             &size.experts.trained}) {
    *part = experts > 0 ? *part / experts * chosen : 0;
  }
  return size;
}

Flop flop_per_token(const config::Model& m, const ModelSize& size, std::int64_t length) {
  // A key costs a product of all heads' width for its score and one for its value.
  double keys = 0.0;
  for (std::int64_t layer = 0; layer < m.layers; ++layer) {
    keys += mean_keys(length, config::is_windowed(m, layer) ? m.sliding_window : length);
  }
  const double attention =
      2.0 * keys * static_cast<double>(m.heads * (config::key_width(m) + config::value_width(m)));
  const Count all = size.sum();
  const double forward = 2.0 * static_cast<double>(all.multiplied) + attention;
  const double backward =
      2.0 * static_cast<double>(all.passed + all.trained) +
      2.0 * attention * static_cast<double>(size.layers_passed) / static_cast<double>(m.layers);
  return {forward, forward + backward};
}

}  // namespace moesaic::plan
