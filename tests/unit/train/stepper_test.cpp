// Whole steps of training on two threads: the same bits twice, and no memory taken once shapes
// repeat.
#include "train/stepper.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "backend/cpu/cpu_backend.h"
#include "backend/transfer.h"
#include "config/validate.h"
#include "support/random_batches.h"

namespace moesaic::testing {
namespace {

// Sizes that no vector width and no number of threads divides.
config::Config small_config(DType precision) {
  config::Config c;
  c.model = {.path = {},
             .layers = 3,
             .d_model = 44,
             .heads = 2,
             .d_ff = 50,
             .vocab_size = 67,
             .max_seq = 37,
             .dense_layers = 1,
             .experts = 5,
             .shared_experts = 1,
             .top_k = 2,
             .expert_d_ff = 21};
  c.data.seq_len = 37;
  c.train.batch = 6;
  c.train.micro_batch = 3;
  c.train.warmup = 1;
  c.train.steps = 8;
  c.run.precision = precision;
  c.run.threads = 2;
  config::resolve(c, "train");
  return c;
}

// The parameters' bits, by the first public name.
using Values = std::map<std::string, std::vector<float>>;

struct Trained {
  std::vector<double> losses, norms;
  Values values;
};

Trained train(const config::Config& config) {
  const comm::Mesh mesh = comm::Mesh::single();
  engine::Instance instance(config, mesh, engine::Use::kTraining);
  instance.parameters.initialise(*instance.backend, config.train.seed);
  train::Stepper stepper(config, instance, 1);
  Trained run;
  for (std::int64_t step = 1; step <= config.train.steps; ++step) {
    const train::StepResult result = stepper.compute(random_batches(config, step), step);
    stepper.update(result);
    run.losses.push_back(result.loss);
    run.norms.push_back(result.grad_norm);
  }
  for (const model::Parameter& p : instance.parameters.all()) {
    run.values[p.spec.tensors.front().name] = to_host_f32(*instance.backend, p.value);
  }
  return run;
}

class StepperTest : public ::testing::TestWithParam<DType> {};

// Protects: no sum depends on which thread is first.
TEST_P(StepperTest, SameBitsTwice) {
  config::Config config = small_config(GetParam());
  const Trained first = train(config);
  const Trained second = train(config);
  EXPECT_EQ(first.losses, second.losses);
  EXPECT_EQ(first.norms, second.norms);
  ASSERT_FALSE(first.values.empty());
  EXPECT_EQ(first.values, second.values);
  config.train.seed = 2;  // and the comparison sees another run
  const Trained other = train(config);
  EXPECT_NE(first.losses, other.losses);
  EXPECT_NE(first.values, other.values);
}

// Protects: a step's memory is reused by the next one. Nothing moves the parameters here, so that
// every step routes as the one before it.
TEST_P(StepperTest, NoNewMemoryFromTheThirdStep) {
  config::Config config = small_config(GetParam());
  config.train.lr = config.train.min_lr = 0.0;
  const comm::Mesh mesh = comm::Mesh::single();
  engine::Instance instance(config, mesh, engine::Use::kTraining);
  const auto* const backend = dynamic_cast<const cpu::CpuBackend*>(instance.backend.get());
  ASSERT_NE(backend, nullptr);
  instance.parameters.initialise(*instance.backend, config.train.seed);
  train::Stepper stepper(config, instance, 1);
  const data::StepBatches batches = random_batches(config, 1);
  const std::size_t before = backend->bytes_held();
  std::vector<std::size_t> held;  // after each step
  for (std::int64_t step = 1; step <= config.train.steps; ++step) {
    stepper.update(stepper.compute(batches, step));
    held.push_back(backend->bytes_held());
  }
  EXPECT_GT(held[0], before);
  EXPECT_EQ(std::vector(held.begin() + 2, held.end()), std::vector(held.size() - 2, held[1]));
}

// Protects that the host is ahead of the device: it waits for the losses of a step, and for its
// norms, however many micro-batches there are.
TEST_P(StepperTest, TwoWaitsInADenseStep) {
  for (const std::int64_t micro_batch : {1, 3, 6}) {
    config::Config config = small_config(GetParam());
    config.model.dense_layers = config.model.layers;
    config.model.experts = config.model.shared_experts = 0;
    config.train.micro_batch = micro_batch;
    const comm::Mesh mesh = comm::Mesh::single();
    engine::Instance instance(config, mesh, engine::Use::kTraining);
    instance.parameters.initialise(*instance.backend, config.train.seed);
    train::Stepper stepper(config, instance, 1);
    for (std::int64_t step = 1; step <= 3; ++step) {
      const data::StepBatches batches = random_batches(config, step);
      const std::int64_t before = instance.backend->waits();
      stepper.update(stepper.compute(batches, step));
      EXPECT_EQ(instance.backend->waits() - before, 2);
    }
  }
}

// Protects the same where experts are all here: what the router counted, and its state, are read
// once each, also where blocks are computed again.
TEST_P(StepperTest, FourWaitsInAStepOfExperts) {
  for (const std::int64_t micro_batch : {1, 3, 6}) {
    for (const bool recompute : {false, true}) {
      config::Config config = small_config(GetParam());
      config.train.micro_batch = micro_batch;
      config.train.recompute = recompute;
      const comm::Mesh mesh = comm::Mesh::single();
      engine::Instance instance(config, mesh, engine::Use::kTraining);
      instance.parameters.initialise(*instance.backend, config.train.seed);
      train::Stepper stepper(config, instance, 1);
      const data::StepBatches batches = random_batches(config, 1);
      const std::int64_t before = instance.backend->waits();
      stepper.update(stepper.compute(batches, 1));
      EXPECT_EQ(instance.backend->waits() - before, 4);
    }
  }
}

// Protects that the host is ahead of the device: what counts is how often it waits.
TEST(Backend, CountsWaits) {
  cpu::CpuBackend backend(1, cpu::best_kernels());
  const Tensor x = backend.empty(DType::kF32, {3});
  backend.zero(x);
  EXPECT_EQ(backend.waits(), 0);
  to_host_f32(backend, x);
  EXPECT_EQ(backend.waits(), 1);
  HostCopies copies;
  const std::size_t first = copies.add(x);
  const std::size_t second = copies.add(x.rows(1, 2));
  copies.fetch(backend);
  EXPECT_EQ(backend.waits(), 2);
  EXPECT_EQ(copies.at<float>(first).size() + copies.at<float>(second).size(), 5U);
  backend.synchronize();
  EXPECT_EQ(backend.waits(), 3);
}

// Protects what loading went through from staying in memory: what is in reserve goes, no more.
TEST(Backend, GivesBackItsReserve) {
  cpu::CpuBackend backend(1, cpu::best_kernels());
  const Tensor kept = backend.empty(DType::kF32, {1000});
  const std::size_t before = backend.bytes_held();
  backend.empty(DType::kF32, {1'000'000});
  EXPECT_GT(backend.bytes_held(), before);
  backend.release_reserve();
  EXPECT_EQ(backend.bytes_held(), before);
}

// Protects the gradient buffer: while an expert's gradient is held, nothing of it moves; then the
// mean of the held gradients is applied once, with the expert's own count of updates.
TEST_P(StepperTest, TheGradientBufferHoldsExpertsBack) {
  config::Config config = small_config(GetParam());
  config.train.lr = config.train.min_lr = 1e-3;
  config.train.schedule = config::Schedule::kConstant;
  config.train.warmup = 0;
  config.train.clip = 0.0;
  config.train.weight_decay = 0.0;
  config.router.gradient_buffer = 400;  // of 444 choices in a step, for five experts
  const comm::Mesh mesh = comm::Mesh::single();
  engine::Instance instance(config, mesh, engine::Use::kTraining);
  instance.parameters.initialise(*instance.backend, config.train.seed);
  train::Stepper stepper(config, instance, 1);
  const model::Moe& moe = *instance.transformer.moe(0);
  const model::Parameter& p = *moe.experts().parameters()[1];
  const std::int64_t each = p.spec.shape.numel() / 5;
  const auto part = [&](const Tensor& tensor, std::int64_t expert) {
    return to_host_f32(*instance.backend,
                       tensor.reshaped({p.spec.shape.numel()}).rows(expert * each, each));
  };
  std::vector<double> tokens(5, 0.0);
  std::vector<int> steps(5, 0);
  std::vector<int> updates(5, 0);
  for (std::int64_t step = 1; step <= 12; ++step) {
    std::vector<std::vector<float>> values, averages;
    for (std::int64_t e = 0; e < 5; ++e) {
      values.push_back(part(p.value, e));
      averages.push_back(part(p.exp_avg, e));
    }
    const train::StepResult result = stepper.compute(random_batches(config, step), step);
    EXPECT_EQ(stepper.compute(random_batches(config, step), step).grad_norm, result.grad_norm);
    std::vector<std::vector<float>> gradients;
    for (std::int64_t e = 0; e < 5; ++e) {
      gradients.push_back(part(p.grad, e));
    }
    stepper.update(result);
    for (std::size_t e = 0; e < 5; ++e) {
      const auto expert = static_cast<std::int64_t>(e);
      tokens[e] += stepper.stats().processed(0)[e];
      ++steps[e];
      if (tokens[e] < 400.0) {
        EXPECT_EQ(part(p.value, expert), values[e]) << "step " << step << " expert " << e;
        EXPECT_EQ(part(p.exp_avg, expert), averages[e]);
        EXPECT_EQ(part(p.deferred, expert), gradients[e]);
        continue;
      }
      ++updates[e];
      const std::vector<float> average = part(p.exp_avg, expert);
      for (std::size_t i = 0; i < average.size(); ++i) {
        const double expected = config.train.beta1 * static_cast<double>(averages[e][i]) +
                                (1.0 - config.train.beta1) * static_cast<double>(gradients[e][i]);
        EXPECT_NEAR(average[i], expected, 1e-6 + 1e-5 * std::abs(expected));
      }
      if (updates[e] == 1) {  // then the corrected moments are the gradient and its square
        const std::vector<float> after = part(p.value, expert);
        for (std::size_t i = 0; i < after.size(); ++i) {
          const double g = gradients[e][i];
          EXPECT_NEAR(after[i] - values[e][i], -1e-3 * g / (std::abs(g) + config.train.eps), 2e-5);
        }
      }
      EXPECT_EQ(part(p.deferred, expert), std::vector<float>(gradients[e].size(), 0.0F));
      tokens[e] = 0.0;
      steps[e] = 0;
    }
  }
  EXPECT_GE(*std::max_element(updates.begin(), updates.end()), 2);
  EXPECT_LT(*std::min_element(updates.begin(), updates.end()), 4);
  const std::vector<float> state = to_host_f32(*instance.backend, moe.buffer_state()->value);
  for (std::size_t e = 0; e < 5; ++e) {
    EXPECT_EQ(state[e], static_cast<float>(steps[e]));
    EXPECT_EQ(state[5 + e], static_cast<float>(tokens[e]));
    EXPECT_EQ(state[10 + e], static_cast<float>(updates[e]));
  }
}

// Protects: with a buffer that every step fills, training is as without one.
TEST_P(StepperTest, AFullBufferChangesNothing) {
  config::Config config = small_config(GetParam());
  const Trained without = train(config);
  config.router.gradient_buffer = 1;
  const Trained with = train(config);
  EXPECT_EQ(with.losses, without.losses);
  EXPECT_EQ(with.norms, without.norms);
}

INSTANTIATE_TEST_SUITE_P(Precisions, StepperTest, ::testing::Values(DType::kF32, DType::kBf16),
                         [](const auto& test) {
                           return test.param == DType::kF32 ? "fp32" : "bf16";
                         });

}  // namespace
}  // namespace moesaic::testing
