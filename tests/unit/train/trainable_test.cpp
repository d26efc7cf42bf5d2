// Training a part of a model: the gradients of that part, and nothing else changes.
#include "model/trainable.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "backend/transfer.h"
#include "config/validate.h"
#include "support/golden.h"
#include "support/random_batches.h"
#include "train/stepper.h"

namespace moesaic::testing {
namespace {

using Values = std::map<std::string, std::vector<float>>;

config::Config small_config(std::vector<std::string> trainable) {
  config::Config c;
  c.model = {.path = {},
             .layers = 3,
             .d_model = 44,
             .heads = 4,
             .kv_heads = 2,
             .d_ff = 50,
             .vocab_size = 67,
             .max_seq = 37,
             .dense_layers = 1,
             .experts = 5,
             .shared_experts = 1,
             .top_k = 2,
             .expert_d_ff = 21,
             .shared_gate = true,
             .expert_bias = true,
             .qkv_bias = true,
             .qk_norm = config::QkNorm::kHead,
             .sinks = true};
  c.router.balance = config::Balance::kBias;
  c.router.task_gate = true;
  c.data.seq_len = 37;
  c.train.batch = 6;
  c.train.micro_batch = 3;
  c.train.warmup = 0;
  c.train.steps = 3;
  c.train.lr = c.train.min_lr = 1e-2;
  c.train.trainable = std::move(trainable);
  c.run.precision = DType::kF32;
  c.run.threads = 2;
  config::resolve(c, "train");
  return c;
}

struct Trained {
  Values gradients;      // of the first step
  Values before, after;  // values, by public name
};

Trained train(const config::Config& config) {
  const comm::Mesh mesh = comm::Mesh::single();
  engine::Instance instance(config, mesh, engine::Use::kTraining, {.tasks = {"code"}});
  instance.parameters.initialise(*instance.backend, config.train.seed);
  const auto values = [&] {
    Values all;
    for (const model::Parameter& p : instance.parameters.all()) {
      const Tensor& kept = p.value.defined() ? p.value : p.compute;
      const Tensor flat = kept.reshaped({kept.numel()});
      for (const model::PublicTensor& tensor : p.spec.tensors) {
        const Tensor rows = flat.rows(tensor.begin, tensor.slice_shape().numel());
        const Tensor wide = instance.backend->empty(DType::kF32, rows.shape());
        instance.backend->convert(rows, wide);
        all[tensor.name] = to_host_f32(*instance.backend, wide);
      }
    }
    return all;
  };
  Trained run{.gradients = {}, .before = values(), .after = {}};
  train::Stepper stepper(config, instance, 2);
  for (std::int64_t step = 1; step <= config.train.steps; ++step) {
    const train::StepResult result = stepper.compute(random_batches(config, step), step);
    if (step == 1) {
      run.gradients = gradients_of(instance);
    }
    stepper.update(result);
  }
  run.after = values();
  return run;
}

struct Case {
  const char* name;
  std::vector<std::string> trainable;
  bool whole;  // no product has frozen rows beside trained ones: then gradients have the same bits
};

class TrainableTest : public ::testing::TestWithParam<Case> {};

// Protects: what is trained has the gradient that it has when all is trained; what is frozen, and
// the router's counts beside a frozen gate, keep every bit; what is trained moves.
TEST_P(TrainableTest, ThePartAlone) {
  static const Trained all = train(small_config({}));
  for (const bool recompute : {false, true}) {
    config::Config config = small_config(GetParam().trainable);
    config.train.recompute = recompute;
    const model::Roles roles = model::tuning_of(config, {.tasks = {"code"}}).roles;
    const Trained part = train(config);
    ASSERT_FALSE(part.gradients.empty());
    for (const auto& [name, gradient] : part.gradients) {
      EXPECT_TRUE(roles.trains(name)) << name;
      if (GetParam().whole) {
        EXPECT_EQ(gradient, all.gradients.at(name)) << name;
      } else {
        EXPECT_LT(relative_distance(gradient, all.gradients.at(name)), 1e-5) << name;
      }
    }
    for (const auto& [name, value] : part.after) {
      const bool count = name.ends_with("gate.load") || name.ends_with("correction_bias");
      const std::string gate = name.substr(0, name.rfind('.') + 1) + "weight";
      const bool moves = count ? roles.trains(gate) : roles.trains(name);
      const auto gradient = part.gradients.find(name);
      const bool has_gradient =
          count || (gradient != part.gradients.end() &&
                    std::any_of(gradient->second.begin(), gradient->second.end(),
                                [](float g) { return g != 0.0F; }));
      EXPECT_EQ(value != part.before.at(name), moves && has_gradient) << name;
    }
  }
}

// The same with weights of products in bf16, where the frozen ones have no fp32 copy.
TEST_P(TrainableTest, FrozenWeightsHaveOneCopy) {
  config::Config config = small_config(GetParam().trainable);
  config.run.precision = DType::kBf16;
  const comm::Mesh mesh = comm::Mesh::single();
  const engine::Instance instance(config, mesh, engine::Use::kTraining, {.tasks = {"code"}});
  for (const model::Parameter& p : instance.parameters.all()) {
    if (!p.is_trained()) {
      EXPECT_EQ(p.value.defined(), !p.spec.in_products || p.spec.looked_up);
      EXPECT_FALSE(p.grad.defined() || p.exp_avg.defined());
    }
  }
  const Trained part = train(config);
  for (const auto& [name, value] : part.after) {
    if (!instance.parameters.roles().trains(name) && !name.ends_with("gate.load") &&
        !name.ends_with("correction_bias")) {
      EXPECT_EQ(value, part.before.at(name)) << name;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    All, TrainableTest,
    ::testing::Values(Case{"head", {"head"}, true}, Case{"norm", {"model.norm.weight"}, true},
                      Case{"last", {"last:1", "head"}, true}, Case{"router", {"router"}, true},
                      Case{"norms", {"*norm.weight", "*.sinks"}, true},
                      Case{"attention", {"*.self_attn.*"}, true},
                      Case{"experts", {"*.mlp.experts.*", "*.shared_expert_gate.*"}, true},
                      Case{"table", {"model.embed_tokens.weight"}, true},
                      Case{"some",
                           {"*.q_proj.*", "*.v_proj.bias", "*.experts.1.*", "*.experts.3.up_proj.*",
                            "*.experts.4.gate_proj.bias", "*.shared_experts.up_proj.weight"},
                           false}),
    [](const auto& test) { return std::string(test.param.name); });

// Protects train.lr_scale: the factor of each tensor's update, without decay; and 0 is no update.
TEST(Trainable, FactorsScaleUpdates) {
  config::Config config = small_config({"*.q_proj.weight", "*.k_proj.weight", "*.v_proj.weight"});
  config.train.steps = 1;
  config.train.weight_decay = 0.0;
  const Trained plain = train(config);
  config.train.lr_scale = {{"*.k_proj.weight", 0.5}, {"*.v_proj.weight", 0.0}};
  const Trained scaled = train(config);
  for (const auto& [name, before] : plain.before) {
    const float factor = name.ends_with("k_proj.weight")   ? 0.5F
                         : name.ends_with("v_proj.weight") ? 0.0F
                                                           : 1.0F;
    for (std::size_t i = 0; i < before.size(); ++i) {
      const float moved = plain.after.at(name)[i] - before[i];
      ASSERT_NEAR(scaled.after.at(name)[i] - before[i], factor * moved, 1e-7) << name;
    }
  }
}

// Protects train.moments: half the bytes, and steps that stay close to those of fp32.
TEST(Trainable, MomentsInBf16) {
  config::Config config = small_config({});
  const Trained wide = train(config);
  config.train.moments = DType::kBf16;
  const Trained narrow = train(config);
  const comm::Mesh mesh = comm::Mesh::single();
  const engine::Instance instance(config, mesh, engine::Use::kTraining, {.tasks = {"code"}});
  const auto half = instance.parameters.trained_bytes(DType::kBf16);
  EXPECT_EQ(2 * half.moments, instance.parameters.trained_bytes(DType::kF32).moments);
  for (const model::Parameter& p : instance.parameters.all()) {
    EXPECT_TRUE(!p.is_trained() || p.exp_avg.dtype() == DType::kBf16);
  }
  const std::string name = "model.layers.1.self_attn.q_proj.weight";
  EXPECT_NE(narrow.after.at(name), wide.after.at(name));
  EXPECT_LT(relative_distance(narrow.after.at(name), wide.after.at(name)), 1e-2);
}

}  // namespace
}  // namespace moesaic::testing
