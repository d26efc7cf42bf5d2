#include "plan/backward.h"

#include <charconv>
#include <map>
#include <string_view>

#include "base/share.h"

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

// The layer of a tensor; -1: it is of none.
std::int64_t layer_of(std::string_view name) {
  constexpr std::string_view kPrefix = "model.layers.";
  std::int64_t layer = -1;
  if (name.starts_with(kPrefix)) {
    std::from_chars(name.data() + kPrefix.size(), name.data() + name.size(), layer);
  }
  return layer;
}

}  // namespace

std::vector<LayerInBackward> layers_in_backward(const config::Model& model, const Layout& layout,
                                                std::int64_t stage, const RankModel& rank) {
  std::map<std::int64_t, KeptInputs> kept;
  for (const model::Parameter& p : rank.parameters.all()) {
    for (const model::PublicTensor& tensor : p.spec.tensors) {
      if (p.trained_in(p.rows_with(tensor)).count > 0) {
        add_input(tensor.name, kept[layer_of(tensor.name)]);
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

std::int64_t chunks_with_gradient(const config::Model& model, const Layout& layout,
                                  std::int64_t stage, const model::Roles& roles) {
  std::int64_t sending = 0;
  for (std::int64_t c = stage; c < layout.pp * layout.chunks; c += layout.pp) {
    const Slice layers = layers_of_chunk(model.layers, c, layout.pp * layout.chunks);
    sending += c > 0 && roles.lowest_part() <= layers.begin ? 1 : 0;
  }
  return sending;
}

}  // namespace moesaic::plan
