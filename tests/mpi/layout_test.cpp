// Training over any layout of ranks against one rank: gradients, counts, and 20 AdamW steps.
#include <gtest/gtest.h>

#include <cmath>

#include "support/golden.h"
#include "train/optimizer.h"
#include "train/step.h"

namespace moesaic::testing {
namespace {

struct Case {
  const char* name;
  const char* golden;        // its config and rows
  std::int64_t experts = 0;  // instead of the golden number; 0: that one, golden parameters as well
  std::size_t rows = 3;      // rows 1 and 2 leave ranks without any token
  bool starve = false;       // the bias keeps every token away from expert 0
};

struct Outcome {
  std::vector<double> losses, norms;                    // of each step
  std::map<std::string, std::vector<float>> gradients;  // of the first step, of this rank
  std::vector<double> counts;                           // of the first step, over all ranks
};

class LayoutTest : public ::testing::TestWithParam<Case> {
 protected:
  LayoutTest() {
    config::Config& config = golden.config;
    config.train.lr = 3e-4;
    if (GetParam().experts > 0) {
      config.model.experts = GetParam().experts;
    }
    if (config.router.capacity > 0) {
      config.router.capacity = 6;  // of a row's 17 tokens x 2 choices / 4 experts: some are dropped
    }
    const std::size_t given = golden.rows.size();
    for (std::size_t row = given; row < GetParam().rows; ++row) {
      golden.rows.push_back(golden.rows[row % given]);
    }
    golden.rows.resize(GetParam().rows);
  }

  void set_values(model::Instance& instance) const {
    if (GetParam().experts == 0) {
      set_parameters(instance, golden);
    } else {
      instance.parameters.initialise(*instance.backend, 7);
    }
    if (GetParam().starve) {
      std::vector<float> bias(static_cast<std::size_t>(golden.config.model.experts), 0.0F);
      bias[0] = -100.0F;
      for (std::int64_t layer = 0; layer < layers(); ++layer) {
        instance.backend->upload(std::as_bytes(std::span(bias)),
                                 instance.transformer.router(layer).bias()->value);
      }
    }
  }

  // One step's loss and reduced gradients. Row i is the micro-batch of replica i mod replicas.
  // Collective over the mesh.
  double evaluate(model::Instance& instance, model::MoeStats& stats) const {
    const model::MicroBatch whole = golden.batch();
    const auto counted = static_cast<double>(whole.counted());
    const auto tokens = static_cast<double>(whole.size());
    const comm::Communicator& replicas = instance.mesh.replicas;
    const auto width = static_cast<std::size_t>(replicas.size());
    model::Context ctx = instance.context();
    ctx.stats = &stats;
    ctx.step_tokens = whole.size();
    stats.clear();
    train::zero_gradients(instance);
    double loss = 0.0;
    for (std::size_t first = 0; first < golden.rows.size(); first += width) {
      const std::size_t row = first + static_cast<std::size_t>(replicas.rank());
      const model::MicroBatch batch =
          row < golden.rows.size() ? golden.rows[row] : model::MicroBatch();
      for (const float p : train::forward_backward(instance, ctx, batch, 1.0 / counted)) {
        loss -= static_cast<double>(p) / counted;
      }
    }
    train::reduce_gradients(instance);
    replicas.all_reduce(stats.all(), comm::Reduce::kSum);
    loss = replicas.all_reduce(loss, comm::Reduce::kSum);
    for (std::int64_t layer = 0; layer < layers(); ++layer) {
      loss += (golden.config.router.aux_loss * stats.sums(layer)[0] +
               golden.config.router.z_loss * stats.sums(layer)[1]) /
              tokens;
    }
    return loss;
  }

  // Collective over the mesh.
  Outcome train(const comm::Mesh& mesh, std::int64_t steps) const {
    model::Instance instance(golden.config, mesh, true);
    set_values(instance);
    model::MoeStats stats(layers(), golden.config.model.experts, 1);
    Outcome outcome;
    for (std::int64_t step = 1; step <= steps; ++step) {
      outcome.losses.push_back(evaluate(instance, stats));
      const double norm = train::gradient_norm(*instance.backend, instance.parameters, mesh.ep);
      outcome.norms.push_back(norm);
      if (step == 1) {
        outcome.gradients = gradients_of(instance);
        for (std::int64_t layer = 0; layer < layers(); ++layer) {
          for (const auto& part :
               {stats.chosen(layer), stats.dropped(layer), stats.processed(layer)}) {
            outcome.counts.insert(outcome.counts.end(), part.begin(), part.end());
          }
        }
      }
      train::optimizer_step(*instance.backend, instance.parameters, golden.config.train,
                            golden.config.train.lr, step, norm);
    }
    return outcome;
  }

  std::int64_t layers() const { return std::ssize(golden.aux_loss); }

  Golden golden = Golden::read(GetParam().golden);
};

// Protects: the routes between ranks, both gradient reductions, and their place in the step.
TEST_P(LayoutTest, AsOneRank) {
  constexpr std::int64_t kSteps = 20;
  const Outcome serial = train(comm::Mesh::single(), kSteps);
  const int ranks = comm::Communicator::world().size();
  for (int ep = 1; ep <= ranks; ++ep) {
    if (ranks % ep != 0 || golden.config.model.experts % ep != 0) {
      continue;
    }
    comm::Mesh mesh = comm::Mesh::make(1, 1, ep);
    SCOPED_TRACE(mesh.layout.text());
    const Outcome parallel = train(mesh, kSteps);
    for (const auto& [name, gradient] : parallel.gradients) {
      EXPECT_LT(relative_distance(gradient, serial.gradients.at(name)), 1e-5) << name;
    }
    EXPECT_EQ(parallel.counts, serial.counts);
    for (std::size_t i = 0; i < serial.losses.size(); ++i) {
      EXPECT_NEAR(parallel.losses[i], serial.losses[i], 1e-5 * serial.losses[i]) << "step " << i;
      EXPECT_NEAR(parallel.norms[i], serial.norms[i], 1e-5 * serial.norms[i]) << "step " << i;
    }
    mesh.close();
  }
}

// Protects: that the cases are what they say; a test of drops without drops would pass as well.
TEST_P(LayoutTest, CaseIsWhatItSays) {
  const Outcome serial = train(comm::Mesh::single(), 1);
  const auto experts = static_cast<std::size_t>(golden.config.model.experts);
  double dropped = 0.0;
  for (std::size_t layer = 0; layer < static_cast<std::size_t>(layers()); ++layer) {
    const double* const counts = serial.counts.data() + layer * 3 * experts;
    EXPECT_TRUE(!GetParam().starve || counts[0] == 0.0) << counts[0];
    for (std::size_t e = 0; e < experts; ++e) {
      dropped += counts[experts + e];
    }
  }
  EXPECT_EQ(dropped > 0.0, golden.config.router.capacity > 0);
}

INSTANTIATE_TEST_SUITE_P(
    All, LayoutTest,
    ::testing::Values(
        Case{.name = "softmax", .golden = "softmax"},
        Case{.name = "softmax_8_experts", .golden = "softmax", .experts = 8},
        Case{.name = "sigmoid_bias", .golden = "sigmoid_bias"},
        Case{.name = "sigmoid_4_experts", .golden = "sigmoid_bias", .experts = 4},
        Case{.name = "starved_expert", .golden = "sigmoid_bias", .experts = 4, .starve = true},
        Case{.name = "capacity", .golden = "capacity"},
        Case{.name = "one_row", .golden = "capacity", .rows = 1}),
    [](const auto& test) { return std::string(test.param.name); });

}  // namespace
}  // namespace moesaic::testing
