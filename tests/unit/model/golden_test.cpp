// The whole model against an independent PyTorch implementation: logits, losses, router counts,
// every gradient and ten AdamW steps.
#include "support/golden.h"

#include <gtest/gtest.h>

#include <cmath>

#include "backend/transfer.h"
#include "model/moe_stats.h"
#include "train/optimizer.h"
#include "train/step.h"

namespace moesaic::testing {
namespace {

// Relative bounds: of the loss, and of the Euclidean norms of the logits, of the whole gradient and
// of each parameter's.
struct Bounds {
  double loss, logits, gradient, each_gradient, curve;
};
constexpr Bounds kFp32 = {1e-4, 1e-4, 1e-4, 1e-4, 1e-4};
// Models *_bf16, which cannot route another way: no score is within 1 % of a choice's limit.
// Measured: at most 0.04, 0.8, 1.5 and 2.3 %. PyTorch's own bf16 (autocast) is off by up to
// 0.8, 1.0, 2.0 and 3.7 % on them (make_golden.py prints it).
constexpr Bounds kBf16 = {0.002, 0.01, 0.02, 0.03, 0.01};
// With sigmoid scores and a bias a choice may come close to its limit after an update: one token
// that chooses another expert in the second layer moves this little model's loss by 2.4 %.
constexpr Bounds kBf16OneChoice = {0.002, 0.01, 0.02, 0.03, 0.03};

struct Case {
  const char* name;
  DType precision;
  Bounds bounds;
};

class GoldenTest : public ::testing::TestWithParam<Case> {
 protected:
  GoldenTest() {
    golden.config.run.precision = GetParam().precision;
    instance = std::make_unique<engine::Instance>(golden.config, mesh, engine::Use::kTraining);
    set_parameters(*instance, golden);
  }

  struct Result {
    double loss, lm_loss;
    std::vector<float> logits;
  };

  // Loss and gradients of the golden batch at the present parameters.
  Result evaluate() {
    model::Context ctx = instance->context();
    ctx.observers = {stats.observer()};
    stats.clear();
    const data::MicroBatch batch = golden.batch();
    ctx.batch.step_tokens = batch.size();
    train::zero_gradients(*instance);
    const auto counted = static_cast<double>(batch.counted());
    const auto logprob = train::forward_backward(*instance, ctx, std::span(&batch, 1),
                                                 train::cross_entropy(), counted)
                             .logprob.front();
    double sum = 0.0;
    for (const float p : logprob) {
      sum += static_cast<double>(p);
    }
    stats.resolve(ctx);
    Result result{.loss = -sum / counted, .lm_loss = -sum / counted, .logits = {}};
    for (std::int64_t layer = 0; layer < stats.layers(); ++layer) {
      const auto tokens = static_cast<double>(batch.size());
      result.loss += golden.config.router.aux_loss * stats.sums(layer)[0] / tokens +
                     golden.config.router.z_loss * stats.sums(layer)[1] / tokens;
    }
    return result;
  }

  Golden golden = Golden::read(GetParam().name);
  comm::Mesh mesh = comm::Mesh::single();
  std::unique_ptr<engine::Instance> instance;
  model::MoeStats stats{std::ssize(golden.aux_loss), golden.config.model.experts, 1,
                        golden.config.model.top_k};
};

TEST_P(GoldenTest, LogitsLossesAndCounts) {
  const Bounds& bounds = GetParam().bounds;
  const Result result = evaluate();
  EXPECT_NEAR(result.lm_loss, golden.lm_loss, bounds.loss * golden.lm_loss);
  EXPECT_NEAR(result.loss, golden.loss, bounds.loss * golden.loss);

  model::Context ctx = instance->context();
  const data::MicroBatch batch = golden.batch();
  model::set_batch(ctx, batch);
  const Tensor hidden = instance->transformer.forward(ctx, 0, {}, nullptr);
  const auto logits =
      to_host_f32(*instance->backend, instance->transformer.head().logits(ctx, hidden));
  EXPECT_LT(relative_distance(logits, golden.logits), bounds.logits);

  for (std::int64_t layer = 0; layer < stats.layers(); ++layer) {
    for (std::int64_t e = 0; e < stats.experts(); ++e) {
      const auto i = static_cast<std::size_t>(layer * stats.experts() + e);
      EXPECT_EQ(stats.chosen(layer)[static_cast<std::size_t>(e)], golden.expert_tokens[i]);
    }
  }
}

TEST_P(GoldenTest, EveryGradient) {
  evaluate();
  std::vector<float> all, expected;
  for (const auto& [name, grad] : gradients_of(*instance)) {
    if (!golden.gradients.contains(name)) {
      continue;  // the selection bias is not trained
    }
    const std::vector<float>& right = golden.gradients.at(name);
    EXPECT_LT(relative_distance(grad, right), GetParam().bounds.each_gradient) << name;
    all.insert(all.end(), grad.begin(), grad.end());
    expected.insert(expected.end(), right.begin(), right.end());
  }
  EXPECT_LT(relative_distance(all, expected), GetParam().bounds.gradient);
}

TEST_P(GoldenTest, TenAdamWSteps) {
  for (std::size_t step = 0; step < golden.adamw_losses.size(); ++step) {
    const auto expected = static_cast<double>(golden.adamw_losses[step]);
    EXPECT_NEAR(evaluate().loss, expected, GetParam().bounds.curve * expected) << "step " << step;
    const double norm = train::gradient_norm(*instance, {*instance, 0});
    if (GetParam().precision == DType::kF32) {
      const auto expected_norm = static_cast<double>(golden.adamw_norms[step]);
      EXPECT_NEAR(norm, expected_norm, 1e-3 * expected_norm) << "step " << step;
    }
    train::optimizer_step(*instance, {*instance, 0}, golden.config.train, golden.config.train.lr,
                          static_cast<std::int64_t>(step) + 1, norm);
  }
}

INSTANTIATE_TEST_SUITE_P(All, GoldenTest,
                         ::testing::Values(Case{"softmax", DType::kF32, kFp32},
                                           Case{"sigmoid_bias", DType::kF32, kFp32},
                                           Case{"capacity", DType::kF32, kFp32},
                                           Case{"softmax_bf16", DType::kBf16, kBf16},
                                           Case{"sigmoid_bias_bf16", DType::kBf16, kBf16OneChoice},
                                           Case{"softmax_bf16", DType::kF32, kFp32},
                                           Case{"sigmoid_bias_bf16", DType::kF32, kFp32}),
                         [](const auto& test) {
                           return std::string(test.param.name) +
                                  (test.param.precision == DType::kF32 ? "_in_fp32" : "_in_bf16");
                         });

}  // namespace
}  // namespace moesaic::testing
