#pragma once

#include <cstdint>
#include <span>

#include "config/config.h"
#include "model/layers/head.h"

namespace moesaic::infer {

struct Sample {
  std::int32_t token = 0;
  float logprob = 0.0F;  // under the model's own distribution, nats
};

/// Chooses the next token. With a temperature: softmax(logits / temperature), of which top_k, top_p
/// and min_p leave a part, in this order (Holtzman et al. 2020; Nguyen et al. 2024). A draw is a
/// function of (seed, document, position) and the logits alone.
class Sampler {
 public:
  explicit Sampler(const config::GenerateJob& keys) : keys_(keys) {}

  /// logits, with their peak: of the whole vocabulary; document: its number in the corpus;
  /// position: of the token in the continuation. If logits are equal, the lower token comes first.
  Sample choose(const model::Head::Peak& peak, std::span<const float> logits, std::int64_t document,
                std::int64_t position) const;
  /// Otherwise choose needs the peak alone.
  bool wants_logits() const { return keys_.temperature > 0.0; }

 private:
  std::int32_t draw(float largest, std::span<const float> logits, std::int64_t document,
                    std::int64_t position) const;

  config::GenerateJob keys_;
};

}  // namespace moesaic::infer
