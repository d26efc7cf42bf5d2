#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "config/config.h"
#include "engine/instance.h"

namespace moesaic::testing {

/// A small model written by tests/golden/make_golden.py, and what PyTorch computes for it.
struct Golden {
  config::Config config;
  std::vector<data::MicroBatch> rows;  // one for each sequence
  std::map<std::string, std::vector<float>> parameters, gradients;
  std::vector<float> logits, adamw_losses, adamw_norms;
  std::vector<double> aux_loss, z_loss;
  std::vector<double> expert_tokens;
  double loss = 0, lm_loss = 0;

  /// name: "softmax", "sigmoid_bias", "capacity", or the first two with "_bf16"
  static Golden read(const std::string& name);
  /// All rows as one micro-batch.
  data::MicroBatch batch() const;
};

/// The part of a public tensor's values that a rank holds.
std::vector<float> part_of(const std::vector<float>& whole, const model::PublicTensor& tensor);
/// Puts the golden parameters (those of this rank) into the model.
void set_parameters(engine::Instance& instance, const Golden& golden);
/// A parameter's gradient as this rank holds it, by public name.
std::map<std::string, std::vector<float>> gradients_of(engine::Instance& instance);
/// One micro-batch of several.
data::MicroBatch joined(const std::vector<data::MicroBatch>& parts);
/// |a - b| / |b|, Euclidean.
double relative_distance(const std::vector<float>& a, const std::vector<float>& b);

}  // namespace moesaic::testing
