#include "train/objective.h"

namespace moesaic::train {
namespace {

std::vector<float> document_weights(const data::MicroBatch& batch) {
  std::vector<float> weights;
  weights.reserve(batch.target.size());
  for (std::size_t row = 0; row < batch.target.size(); ++row) {
    const float weight = batch.weight.empty() ? 1.0F : batch.weight[row];
    weights.push_back(batch.target[row] < 0 ? 0.0F : weight);
  }
  return weights;
}

}  // namespace

Objective cross_entropy() {
  return {.size =
              [](const data::MicroBatch& batch) {
                double sum = 0.0;
                for (const float weight : document_weights(batch)) {
                  sum += static_cast<double>(weight);
                }
                return sum;
              },
          .weigh = [](const data::MicroBatch& batch,
                      std::span<const float> /*logprob*/) { return document_weights(batch); }};
}

}  // namespace moesaic::train
