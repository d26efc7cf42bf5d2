// What training minimises: weights of tokens, and what is measured beside the loss.
#include "train/objective.h"

#include <gtest/gtest.h>

#include <cmath>

#include "backend/transfer.h"
#include "config/validate.h"
#include "reference/loss.h"
#include "support/golden.h"
#include "support/random_batches.h"
#include "train/step.h"

namespace moesaic::testing {
namespace {

class ObjectiveTest : public ::testing::Test {
 protected:
  ObjectiveTest() : instance(config(), mesh, engine::Use::kTraining) {
    instance.parameters.initialise(*instance.backend, 3);
    batch = random_batches(config(), 1).micro_batches.front();
  }

  static config::Config config() {
    config::Config c;
    c.model = {.path = {},
               .layers = 2,
               .d_model = 24,
               .heads = 2,
               .vocab_size = 67,
               .max_seq = 19,
               .dense_layers = 1,
               .experts = 3,
               .expert_d_ff = 11};
    c.router.aux_loss = 0.0;
    c.data.seq_len = 19;
    c.train.batch = c.train.micro_batch = 3;
    c.train.steps = 1;
    c.run.precision = DType::kF32;
    c.run.threads = 1;
    config::resolve(c, "train");
    return c;
  }

  // The gradients of one objective, and what it says.
  std::map<std::string, std::vector<float>> gradients(const train::Objective& objective) {
    train::zero_gradients(instance);
    outcome = train::forward_backward(instance, instance.context(), std::span(&batch, 1), objective,
                                      objective.size(batch));
    return gradients_of(instance);
  }

  comm::Mesh mesh = comm::Mesh::single();
  engine::Instance instance;
  data::MicroBatch batch;
  train::StepOutcome outcome;
};

// Protects /documents/weight: the loss is the weighted mean, and so are its gradients.
TEST_F(ObjectiveTest, WeightsOfDocuments) {
  const std::size_t row = batch.token.size() / 3;  // of one document
  std::map<std::string, std::vector<double>> expected;
  constexpr float kWeights[] = {1.0F, 0.25F, 3.0F};
  double sum = 0.0;
  double size = 0.0;
  for (std::size_t d = 0; d < 3; ++d) {
    data::MicroBatch all = batch;
    for (std::size_t i = 0; i < batch.target.size(); ++i) {
      batch.target[i] = i / row == d ? all.target[i] : -1;
    }
    const double targets = train::cross_entropy().size(batch);
    const auto alone = gradients(train::cross_entropy());
    for (const auto& [name, gradient] : alone) {
      expected[name].resize(gradient.size());
      for (std::size_t i = 0; i < gradient.size(); ++i) {
        expected[name][i] +=
            static_cast<double>(kWeights[d]) * targets * static_cast<double>(gradient[i]);
      }
    }
    sum += static_cast<double>(kWeights[d]) * outcome.loss;
    size += static_cast<double>(kWeights[d]) * targets;
    batch = all;
  }
  for (std::size_t i = 0; i < batch.token.size(); ++i) {
    batch.weight.push_back(kWeights[i / row]);
  }
  EXPECT_NEAR(train::cross_entropy().size(batch), size, 1e-9 * size);
  const auto weighted = gradients(train::cross_entropy());
  EXPECT_NEAR(outcome.loss, sum, 1e-5 * sum);
  for (const auto& [name, gradient] : weighted) {
    std::vector<float> mean;
    for (const double value : expected.at(name)) {
      mean.push_back(static_cast<float>(value / size));
    }
    EXPECT_LT(relative_distance(gradient, mean), 1e-5) << name;
  }
}

// Protects weights that are made of log-probabilities: they are those of this very forward pass,
// and no gradient goes through them.
TEST_F(ObjectiveTest, WeightsMadeOfLogProbabilities) {
  train::Objective own = train::cross_entropy();
  own.reads_log_probs = true;
  own.weigh = [](const data::MicroBatch& of, std::span<const float> logprob) {
    std::vector<float> weights;
    for (std::size_t i = 0; i < logprob.size(); ++i) {
      weights.push_back(of.target[i] < 0 ? 0.0F : std::exp(logprob[i]));
    }
    return weights;
  };
  const auto found = gradients(own);
  const std::vector<float> logprob = outcome.logprob.front();
  train::Objective given = train::cross_entropy();
  given.weigh = [&](const data::MicroBatch& of, std::span<const float>) {
    return own.weigh(of, logprob);
  };
  EXPECT_EQ(gradients(given), found);
  EXPECT_NE(gradients(train::cross_entropy()), found);
}

// Protects /token_accuracy and /entropy: of targets alone.
TEST_F(ObjectiveTest, AccuracyAndEntropy) {
  for (std::size_t i = 0; i < batch.target.size(); i += 3) {
    batch.target[i] = -1;
  }
  gradients(train::cross_entropy());
  model::Context ctx = instance.context();
  model::set_batch(ctx, batch);
  const Tensor hidden = instance.transformer.forward(ctx, 0, {}, nullptr);
  const std::vector<float> logits =
      to_host_f32(*instance.backend, instance.transformer.head().logits(ctx, hidden));
  const reference::Vector wide(logits.begin(), logits.end());
  const reference::Vector entropies = reference::entropies(wide, 67);
  const reference::Indices best = reference::best_tokens(wide, 67);
  double entropy = 0.0;
  std::int64_t correct = 0;
  for (std::size_t i = 0; i < batch.target.size(); ++i) {
    if (batch.target[i] >= 0) {
      entropy += entropies[i];
      correct += best[i] == batch.target[i] ? 1 : 0;
    }
  }
  EXPECT_NEAR(outcome.entropy, entropy, 1e-4 * entropy);
  EXPECT_EQ(outcome.correct, correct);
  // Targets that are the most likely tokens.
  for (std::size_t i = 0; i < batch.target.size(); ++i) {
    batch.target[i] = batch.target[i] < 0 ? -1 : static_cast<std::int32_t>(best[i]);
  }
  gradients(train::cross_entropy());
  EXPECT_EQ(outcome.correct, batch.counted());
}

}  // namespace
}  // namespace moesaic::testing
