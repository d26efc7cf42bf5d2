// Whole steps of training on two threads: the same bits twice, and no memory taken once shapes
// repeat.
#include "train/stepper.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "backend/cpu/cpu_backend.h"
#include "config/validate.h"
#include "tensor/rng.h"

namespace moesaic::testing {
namespace {

// Sizes that no vector width and no number of threads divides.
config::Config small_config(config::Precision precision) {
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

// One document for each row, of random tokens.
train::StepBatches random_batches(const config::Config& config, std::int64_t step) {
  const Rng rng(static_cast<std::uint64_t>(step), hash_name("tokens"));
  std::uint64_t drawn = 0;
  const auto draw = [&] {
    return static_cast<std::int32_t>(rng.uniform(drawn++) *
                                     static_cast<double>(config.model.vocab_size));
  };
  train::StepBatches batches;
  for (std::int64_t first = 0; first < config.train.batch; first += config.train.micro_batch) {
    model::MicroBatch batch;
    for (std::int64_t t = 0; t < config.train.micro_batch * config.data.seq_len; ++t) {
      const std::int64_t position = t % config.data.seq_len;
      batch.token.push_back(draw());
      batch.target.push_back(draw());
      batch.position.push_back(static_cast<std::int32_t>(position));
      batch.first_key.push_back(static_cast<std::int32_t>(t - position));
      batch.task.push_back(0);
    }
    batches.counted += batch.counted();
    batches.rounds.push_back(std::move(batch));
  }
  return batches;
}

// The parameters' bits, by the first public name.
using Values = std::map<std::string, std::vector<float>>;

struct Trained {
  std::vector<double> losses, norms;
  Values values;
};

Trained train(const config::Config& config) {
  const comm::Mesh mesh = comm::Mesh::single();
  model::Instance instance(config, mesh, true);
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
    run.values[p.spec.tensors.front().name] = model::to_host_f32(*instance.backend, p.value);
  }
  return run;
}

class StepperTest : public ::testing::TestWithParam<config::Precision> {};

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
  model::Instance instance(config, mesh, true);
  const auto* const backend = dynamic_cast<const cpu::CpuBackend*>(instance.backend.get());
  ASSERT_NE(backend, nullptr);
  instance.parameters.initialise(*instance.backend, config.train.seed);
  train::Stepper stepper(config, instance, 1);
  const train::StepBatches batches = random_batches(config, 1);
  const std::size_t before = backend->bytes_held();
  std::vector<std::size_t> held;  // after each step
  for (std::int64_t step = 1; step <= config.train.steps; ++step) {
    stepper.update(stepper.compute(batches, step));
    held.push_back(backend->bytes_held());
  }
  EXPECT_GT(held[0], before);
  EXPECT_EQ(std::vector(held.begin() + 2, held.end()), std::vector(held.size() - 2, held[1]));
}

INSTANTIATE_TEST_SUITE_P(Precisions, StepperTest,
                         ::testing::Values(config::Precision::kFp32, config::Precision::kBf16),
                         [](const auto& test) {
                           return test.param == config::Precision::kFp32 ? "fp32" : "bf16";
                         });

}  // namespace
}  // namespace moesaic::testing
