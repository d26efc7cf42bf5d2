#include "train/objective.h"

namespace moesaic::train {
namespace {

float weight_of(const data::MicroBatch& batch, std::size_t row) {
  return batch.target[row] < 0 ? 0.0F : batch.weight.empty() ? 1.0F : batch.weight[row];
}

double sum_of_weights(const data::MicroBatch& batch) {
  double sum = 0.0;
  for (std::size_t row = 0; row < batch.target.size(); ++row) {
    sum += static_cast<double>(weight_of(batch, row));
  }
  return sum;
}

std::vector<float> weights(const data::MicroBatch& batch, std::span<const float> /*logprob*/) {
  std::vector<float> all;
  all.reserve(batch.target.size());
  for (std::size_t row = 0; row < batch.target.size(); ++row) {
    all.push_back(weight_of(batch, row));
  }
  return all;
}

}  // namespace

Objective cross_entropy() { return {.size = sum_of_weights, .weigh = weights}; }

}  // namespace moesaic::train
