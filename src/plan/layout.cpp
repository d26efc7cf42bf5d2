#include "plan/layout.h"

#include "base/share.h"
#include "config/layers.h"

namespace moesaic::plan {

Layout Layout::of(const config::Config& config, std::int64_t ranks) {
  const config::Parallel& p = config.parallel;
  return {.tp = p.tp,
          .pp = p.pp,
          .ep = p.ep,
          .cp = p.cp,
          .dp = ranks / (p.tp * p.pp * p.ep * p.cp),
          .chunks = p.virtual_stages,
          .folded = p.expert_tp == 1,
          .sequence = p.sequence && p.tp > 1,
          .zero = p.zero > 0,
          .recompute = config.train.recompute};
}

std::vector<std::int64_t> layers_of_stage(const config::Model& model, const Layout& layout,
                                          std::int64_t stage) {
  std::vector<std::int64_t> layers;
  for (std::int64_t c = stage; c < layout.pp * layout.chunks; c += layout.pp) {
    const Slice chunk = layers_of_chunk(model.layers, c, layout.pp * layout.chunks);
    for (std::int64_t layer = chunk.begin; layer < chunk.end(); ++layer) {
      layers.push_back(layer);
    }
  }
  return layers;
}

Stage stage_of(const config::Model& model, const Layout& layout, std::int64_t stage) {
  Stage held{.embedding = stage == 0, .head = stage == layout.pp - 1};
  for (const std::int64_t layer : layers_of_stage(model, layout, stage)) {
    ++(config::has_experts(model, layer) ? held.moe : held.dense);
  }
  return held;
}

std::int64_t micro_batches_per_rank(const config::Train& train, const Layout& layout) {
  return (train.batch / train.micro_batch + layout.replicas() - 1) / layout.replicas();
}

}  // namespace moesaic::plan
