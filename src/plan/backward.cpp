#include "plan/backward.h"

#include <map>
#include <string_view>

#include "config/layers.h"

namespace moesaic::plan {
namespace {

// Adds what the gradient of a tensor needs.
void add_input(std::string_view name, KeptInputs& kept) {
  const auto has = [&](std::string_view part) { return name.find(part) != std::string_view::npos; };
  if (has(".self_attn.")) {
    kept.latent |= has("q_b_proj") || has("kv_b_proj");
    kept.attention |=
        has("q_proj") || has("k_proj") || has("v_proj") || has("q_a_proj") || has("kv_a_proj");
  } else if (has(".mlp.experts.")) {
    kept.experts |= has("gate_proj") || has("up_proj");
  } else if (has(".mlp.")) {
    kept.product |= has("down_proj");
    kept.feed_forward |= !has("down_proj");
  }
}

}  // namespace

std::vector<LayerInBackward> layers_in_backward(const config::Model& model, const Layout& layout,
                                                std::int64_t stage, const RankModel& rank) {
  std::map<std::int64_t, KeptInputs> kept;
  for (const model::Parameter& p : rank.parameters.all()) {
    for (const model::PublicTensor& tensor : p.spec.tensors) {
      if (p.trained_rows_with(tensor).count > 0) {
        add_input(tensor.name, kept[model::layer_of(tensor.name)]);
      }
    }
  }
  std::vector<LayerInBackward> layers;
  for (const std::int64_t layer : layers_of_stage(model, layout, stage)) {
    if (layer + 1 >= rank.parameters.roles().lowest_part()) {
      layers.push_back({layer, kept[layer]});
    }
  }
  return layers;
}

Reached reached_by_backward(const config::Model& model, const Layout& layout, std::int64_t stage,
                            const RankModel& rank) {
  Reached reached{.embedding = rank.parameters.roles().lowest_part() == 0,
                  .hidden = rank.transformer.wants_hidden_gradient()};
  for (const LayerInBackward& layer : layers_in_backward(model, layout, stage, rank)) {
    reached.all += 1.0;
    reached.moe += config::has_experts(model, layer.layer) ? 1.0 : 0.0;
  }
  return reached;
}

}  // namespace moesaic::plan
