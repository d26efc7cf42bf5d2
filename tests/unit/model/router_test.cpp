// Protects the gates of published models: choices, weights, auxiliary loss and gradients as PyTorch
// computes them (tests/golden/make_gates.py).
#include "model/layers/router.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "backend/transfer.h"
#include "comm/collectives.h"
#include "files/hdf5/file.h"
#include "files/hdf5/thread.h"
#include "model/moe_stats.h"
#include "model/transformer.h"

namespace moesaic::testing {
namespace {

constexpr double kAuxLoss = 0.01;

class RouterTest : public ::testing::Test {
 protected:
  std::vector<double> read(const std::string& name) const {
    return files::hdf5_run([&] {
      return files::Hdf5File::open(MOESAIC_GOLDEN_DIR "/gates.h5")
          .read_all<double>(gate + "/" + name);
    });
  }
  Tensor tensor(const std::string& name, const Shape& shape) const {
    std::vector<float> values;
    for (const double value : read(name)) {
      values.push_back(static_cast<float>(value));
    }
    return to_device(*backend, values, shape);
  }
  // Largest distance, relative to the largest value expected.
  void expect_close(const Tensor& actual, const std::string& name, double bound) const {
    const std::vector<double> expected = read(name);
    const std::vector<float> values = to_host_f32(*backend, actual);
    ASSERT_EQ(values.size(), expected.size()) << name;
    double largest = 0.0;
    for (const double value : expected) {
      largest = std::max(largest, std::abs(value));
    }
    for (std::size_t i = 0; i < values.size(); ++i) {
      EXPECT_NEAR(values[i], expected[i], bound * largest) << name << " at " << i;
    }
  }

  // T tokens of D inputs in so many sequences, token t of task t * 7 mod 4.
  void check(std::int64_t tokens, std::int64_t sequences) {
    for (std::int64_t t = 0; t < tokens; ++t) {
      batch.token.push_back(0);
      batch.task.push_back(static_cast<std::uint8_t>(t * 7 % 4));
      batch.sample.push_back(static_cast<std::int32_t>(t / (tokens / sequences)));
    }
    batch.target = batch.position = batch.first_key = batch.token;
    model::set_batch(ctx, batch);
    model::MoeStats stats(1, sizes.experts, 4, sizes.top_k);
    ctx.observers = {stats.observer()};
    ctx.batch.step_tokens = tokens;
    options.aux_loss = kAuxLoss;
    options.aux_scope = config::AuxScope::kSequence;
    const model::Router router(
        parameters, "", sizes, options, 0,
        routing::make_expert_pool(std::string(static_cast<std::size_t>(sizes.experts), 'r'), 1),
        tasks, 1.0, {});
    parameters.allocate(*backend, {});
    for (const model::Parameter& p : parameters.all()) {
      const std::string& name = p.spec.tensors.front().name;
      if (name.ends_with("gate.load")) {
        continue;  // it only counts
      }
      backend->convert(tensor(name.starts_with("gate.task") ? "task_weight" : name, p.spec.shape),
                       p.value);
    }
    const Tensor x = tensor("x", {tokens, sizes.d_model});
    model::Router::Saved saved;
    const model::Router::Choice choice = router.forward(ctx, x, saved);
    stats.resolve(ctx);
    const std::vector<std::int32_t> experts = to_host_i32(*backend, choice.all_expert);
    std::vector<double> chosen(experts.begin(), experts.end());
    EXPECT_EQ(chosen, read("choice"));
    expect_close(choice.weight, "weight", 1e-6);
    EXPECT_NEAR(stats.sums(0)[0] / static_cast<double>(tokens), read("aux")[0], 1e-6);
    const Tensor dx = router.backward(ctx, tensor("dweight", {tokens, sizes.top_k}), saved);
    expect_close(dx, "grad/x", 1e-5);
    for (const model::Parameter& p : parameters.all()) {
      const std::string& name = p.spec.tensors.front().name;
      if (p.is_trained()) {
        expect_close(p.grad, "grad/" + (name.starts_with("gate.task") ? "task_weight" : name),
                     1e-5);
      }
    }
  }

  std::string gate;
  config::Model sizes;
  config::Router options;
  std::vector<std::string> tasks;
  model::Parameters parameters;
  std::unique_ptr<Backend> backend = make_cpu_backend(1);
  comm::Communicator alone;
  std::unique_ptr<comm::Collectives> group = comm::make_mpi_collectives(*backend, alone);
  PhaseClock clock;
  data::MicroBatch batch;
  model::Context ctx{
      {.backend = *backend, .tp = *group, .cp = *group, .experts = *group, .clock = clock}};
};

TEST_F(RouterTest, DeepSeekV3) {
  gate = "deepseek_v3";
  sizes.d_model = 40;
  sizes.experts = 64;
  sizes.top_k = 6;
  options.score = config::Score::kSigmoid;
  options.balance = config::Balance::kBias;
  options.groups = 8;
  options.top_groups = 3;
  options.scale = 2.5;
  check(48, 3);
}

TEST_F(RouterTest, TwoLayersWithTasks) {
  gate = "tasks";
  sizes.d_model = 24;
  sizes.head_dim = 12;
  sizes.experts = 16;
  sizes.top_k = 2;
  options.task_gate = true;
  options.candidates = 5;
  options.temperature = 0.7;
  tasks = {"a", "b", "c"};
  check(40, 2);
}

}  // namespace
}  // namespace moesaic::testing
