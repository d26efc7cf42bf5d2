// Training on any layout of ranks against one rank: gradients, counts, and 20 AdamW steps.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>

#include "config/layers.h"
#include "model/trainable.h"
#include "mpi/engine/layouts.h"
#include "plan/traffic.h"
#include "plan/trained_memory.h"
#include "support/golden.h"
#include "train/optimizer.h"
#include "train/step.h"

namespace moesaic::testing {
namespace {

class LayoutTest : public ::testing::TestWithParam<LayoutCase> {
 protected:
  static constexpr std::int64_t kSteps = 20;

  LayoutTest() {
    config::Config& config = golden.config;
    config.train.lr = 3e-4;
    if (GetParam().change != nullptr) {
      GetParam().change(config);
    }
    config.model.path = "needed";  // what the check of a config wants to see
    config.data.corpus = {"needed"};
    config.score.output = "needed";
    const std::size_t given = golden.rows.size();
    for (std::size_t row = given; row < GetParam().rows; ++row) {
      golden.rows.push_back(golden.rows[row % given]);
    }
    golden.rows.resize(GetParam().rows);
    for (std::size_t row = 0; row < golden.rows.size(); ++row) {
      std::fill(golden.rows[row].task.begin(), golden.rows[row].task.end(),
                static_cast<std::uint8_t>(row % kTasks));
    }
    for (std::size_t row = 0; GetParam().short_rows && row < golden.rows.size(); ++row) {
      cut(golden.rows[row], 1 + row % 3);
    }
    if (GetParam().bf16) {
      config.run.precision = DType::kBf16;
    }
  }

  static void cut(data::MicroBatch& batch, std::size_t tokens) {
    for (auto* list : {&batch.token, &batch.target, &batch.position, &batch.first_key}) {
      list->resize(tokens);
    }
    batch.task.resize(tokens);
  }

  void set_values(engine::Instance& instance) const {
    if (GetParam().change == nullptr) {
      set_parameters(instance, golden);
    } else {
      instance.parameters.initialise(*instance.backend, 7);
    }
    fill_adapters(instance);
    if (!GetParam().starve) {
      return;
    }
    std::vector<float> bias(static_cast<std::size_t>(golden.config.model.experts), 0.0F);
    bias[0] = -100.0F;
    for (std::int64_t layer = 0; layer < layers(); ++layer) {
      if (const model::Moe* moe = instance.transformer.moe(layer)) {
        instance.backend->upload(std::as_bytes(std::span(bias)), moe->router().bias()->value);
      }
    }
  }

  // B is zero at the start of training: then A would have no gradient.
  static void fill_adapters(engine::Instance& instance) {
    for (model::Parameter& p : instance.parameters.all()) {
      if (!p.spec.tensors.empty() && p.spec.tensors.front().name.ends_with("lora_B.weight")) {
        model::ParameterSpec filled = p.spec;
        filled.init_std = 0.1;
        std::vector<float> values;
        for (const model::PublicTensor& tensor : p.spec.tensors) {
          const std::vector<float> part = model::initial_values(filled, tensor, 5);
          values.insert(values.end(), part.begin(), part.end());
        }
        instance.parameters.set(*instance.backend, p, values);
      }
    }
  }

  static routing::GateState gates_of(const config::Config& config) {  // tasks of the batch
    return config.router.task_gate ? routing::GateState{.tasks = {"code", "prose"}}
                                   : routing::GateState{};
  }

  model::MoeStats stats_of(const config::Config& config) const {
    return {layers(), routing::expert_numbers(config.model, config.router, gates_of(config)),
            kTasks, config.model.top_k};
  }

  // One step's loss and summed gradients. Row i is the micro-batch of replica i mod replicas.
  // Collective over the mesh.
  double evaluate(engine::Instance& instance, model::MoeStats& stats) const {
    const data::MicroBatch whole = golden.batch();
    const auto counted = static_cast<double>(whole.counted());
    const auto tokens = static_cast<double>(whole.size());
    const comm::Mesh& mesh = instance.mesh;
    const auto width = static_cast<std::size_t>(mesh[comm::Group::kBatches].size());
    model::Context ctx = instance.context();
    ctx.observers = {stats.observer()};
    ctx.batch.step_tokens = whole.size();
    stats.clear();
    train::zero_gradients(instance);
    std::vector<data::MicroBatch> batches;
    for (std::size_t first = 0; first < golden.rows.size(); first += width) {
      const std::size_t row = first + static_cast<std::size_t>(mesh[comm::Group::kBatches].rank());
      batches.push_back(row < golden.rows.size() ? golden.rows[row] : data::MicroBatch());
    }
    while (batches.size() % static_cast<std::size_t>(mesh[comm::Group::kPp].size()) != 0) {
      batches.emplace_back();  // what an interleaved schedule needs
    }
    double loss = 0.0;
    for (const auto& logprob :
         train::forward_backward(instance, ctx, batches, train::cross_entropy(), counted).logprob) {
      for (const float p : logprob) {
        loss -= mesh.reports() ? static_cast<double>(p) / counted : 0.0;
      }
    }
    stats.resolve(ctx);
    mesh.world.all_reduce(stats.all(), comm::Reduce::kSum);
    loss = mesh.world.all_reduce(loss, comm::Reduce::kSum);
    for (std::int64_t layer = 0; layer < layers(); ++layer) {
      loss += (golden.config.router.aux_loss * stats.sums(layer)[0] +
               golden.config.router.z_loss * stats.sums(layer)[1]) /
              tokens;
    }
    return loss;
  }

  // Collective over the mesh.
  Outcome train(const config::Config& config, const comm::Mesh& mesh, std::int64_t steps,
                const Outcome* serial) const {
    engine::Instance instance(config, mesh, engine::Use::kTraining, gates_of(config));
    set_values(instance);
    model::MoeStats stats = stats_of(config);
    train::GradientBuffer buffer(instance, config.router.gradient_buffer);
    Outcome outcome;
    for (std::int64_t step = 1; step <= steps; ++step) {
      outcome.losses.push_back(evaluate(instance, stats));
      buffer.add_deferred(stats);
      const double norm = train::gradient_norm(instance, buffer);
      outcome.norms.push_back(norm);
      if (step == 1) {
        if (serial != nullptr) {
          outcome.distances = distances(instance, serial->gradients);
        } else {
          outcome.gradients = gradients_of(instance);
        }
        for (std::int64_t layer = 0; layer < layers(); ++layer) {
          for (const auto& part : {stats.chosen(layer), stats.dropped(layer), stats.rerouted(layer),
                                   stats.processed(layer)}) {
            outcome.counts.insert(outcome.counts.end(), part.begin(), part.end());
          }
        }
      }
      train::optimizer_step(instance, buffer, config.train, config.train.lr, step, norm);
      buffer.hold(stats);
    }
    return outcome;
  }

  // What one rank alone makes of the case: computed once, on the first rank. Collective over the
  // world.
  const Outcome& serial() {
    const auto [entry, added] = serial_.try_emplace(GetParam().name);
    if (added) {
      if (comm::Communicator::world().is_root()) {
        entry->second = train(golden.config, comm::Mesh::single(), kSteps, nullptr);
      }
      broadcast(entry->second);
    }
    return entry->second;
  }

  static void TearDownTestSuite() {
    meshes_.close();
    serial_.clear();
  }

  // What every group sends in one step of every layout. Collective over the world.
  void compare_traffic(const config::Config& base);

  std::int64_t layers() const { return std::ssize(config::moe_layers(golden.config.model)); }

  Golden golden = Golden::read(GetParam().golden);
  static inline Meshes meshes_;
  static inline std::map<std::string, Outcome> serial_;  // by name of the case
};

// Protects: what a rank holds and sends in every layout, each sum of gradients, and its place in
// the step.
TEST_P(LayoutTest, AsOneRank) {
  const Outcome& alone = serial();
  const int ranks = comm::Communicator::world().size();
  const std::vector<config::Config> all = layouts(golden.config, ranks);
  ASSERT_FALSE(all.empty());
  for (const config::Config& config : some_of(all, ranks > 4 ? 14 : 1000)) {
    SCOPED_TRACE(text_of(config));
    const comm::Mesh& mesh = meshes_.of(config);
    const Outcome parallel = train(config, mesh, kSteps, &alone);
    for (const auto& [name, distance] : parallel.distances) {
      EXPECT_LT(distance, GetParam().gradient_bound()) << name;
    }
    EXPECT_EQ(parallel.counts, alone.counts);
    for (std::size_t i = 0; i < alone.losses.size(); ++i) {
      const double bound = GetParam().loss_bound();
      EXPECT_NEAR(parallel.losses[i], alone.losses[i], bound * alone.losses[i]) << "step " << i;
      EXPECT_NEAR(parallel.norms[i], alone.norms[i], bound * alone.norms[i]) << "step " << i;
    }
  }
}

// Protects: what `plan` says that a rank sends, in every group, is what it sends. Padding of the
// parameters' places (64 bytes each) is sent along, and not planned.
void LayoutTest::compare_traffic(const config::Config& base) {
  constexpr std::size_t kRows = 16;  // so that no replica has an empty micro-batch
  for (std::size_t row = 0; golden.rows.size() < kRows; ++row) {
    golden.rows.push_back(golden.rows[row]);
  }
  config::Config planned = base;
  planned.data.seq_len = golden.rows.front().size();
  planned.train.micro_batch = 1;
  planned.train.batch = kRows;
  const int ranks = comm::Communicator::world().size();
  plan::Traffic most;  // of all layouts and ranks
  for (const config::Config& config : some_of(layouts(planned, ranks), ranks > 4 ? 14 : 1000)) {
    const plan::Layout layout = plan::Layout::of(config, ranks);
    if (kRows % static_cast<std::size_t>(layout.replicas() * layout.pp) != 0) {
      continue;
    }
    SCOPED_TRACE(text_of(config));
    const comm::Mesh& mesh = meshes_.of(config);
    engine::Instance instance(config, mesh, engine::Use::kTraining, gates_of(config));
    set_values(instance);
    model::MoeStats stats = stats_of(config);
    evaluate(instance, stats);
    train::optimizer_step(instance, {instance, 0}, config.train, 1e-3, 1, 1.0);
    const plan::Traffic traffic = plan::traffic_per_step(
        config, layout, mesh[comm::Group::kPp].rank(), gates_of(config),
        mesh[comm::Group::kTp].rank(), model::tuning_of(config, gates_of(config)));
    const double padding = 64.0 * 2.0 * static_cast<double>(instance.parameters.all().size());
    const auto over_tp = [&](double bytes) {  // shares differ where they do not divide evenly
      return mesh[comm::Group::kTp].all_reduce(bytes, comm::Reduce::kSum);
    };
    const auto expect = [&](const comm::Collectives& group, double bytes, double slack) {
      EXPECT_NEAR(over_tp(group.bytes_sent()), over_tp(bytes), over_tp(slack));
    };
    expect(instance[comm::Group::kTp], traffic[comm::Group::kTp], 1e-9 * traffic[comm::Group::kTp]);
    expect(instance[comm::Group::kPp], traffic[comm::Group::kPp], 1e-9 * traffic[comm::Group::kPp]);
    const std::int64_t sharers = layout.expert_ranks();
    const bool few = !config.train.trainable.empty() && config.adapter.rank == 0;  // of the experts
    const bool even = !few && config.model.experts % sharers == 0 &&
                      config.router.spare_experts % sharers == 0;  // else: of the fullest
    if (even) {
      expect(instance[comm::Group::kDp], traffic[comm::Group::kDp], padding);
    }
    expect(instance[comm::Group::kReplicas], traffic[comm::Group::kReplicas], padding);
    expect(instance[comm::Group::kStage], traffic[comm::Group::kStage], padding);
    if (even) {
      expect(instance[comm::Group::kExpertStage], traffic[comm::Group::kExpertStage], padding);
    }
    expect(instance[comm::Group::kEnds], traffic[comm::Group::kEnds], padding);
    expect(instance[comm::Group::kKv], traffic[comm::Group::kKv], 1e-9 * traffic[comm::Group::kKv]);
    if (even && planned.router.force == config::Force::kBalanced) {
      const double shares = mesh.world.all_reduce(traffic[comm::Group::kEp], comm::Reduce::kSum);
      const double sent =
          mesh.world.all_reduce(instance.experts().bytes_sent(), comm::Reduce::kSum);
      EXPECT_NEAR(sent, shares, 1e-9 * shares);
    }
    // Where loads are not balanced, every choice may leave its rank.
    const auto sharing = static_cast<double>(sharers);
    const double all_leave = traffic[comm::Group::kEp] * sharing / std::max(1.0, sharing - 1.0);
    const double sent = mesh.world.all_reduce(instance.experts().bytes_sent(), comm::Reduce::kSum);
    EXPECT_LE(sent, 1.001 * mesh.world.all_reduce(all_leave, comm::Reduce::kSum));
    EXPECT_EQ(sent > 0.0,
              mesh.world.all_reduce(traffic[comm::Group::kEp], comm::Reduce::kMax) > 0.0);
    for (const auto& [seen, bytes] :
         {std::pair(&most[comm::Group::kTp], traffic[comm::Group::kTp]),
          std::pair(&most[comm::Group::kPp], traffic[comm::Group::kPp]),
          std::pair(&most[comm::Group::kEp], traffic[comm::Group::kEp]),
          std::pair(&most[comm::Group::kDp], traffic[comm::Group::kDp]),
          std::pair(&most[comm::Group::kReplicas], traffic[comm::Group::kReplicas]),
          std::pair(&most[comm::Group::kStage], traffic[comm::Group::kStage])}) {
      *seen = std::max(*seen, mesh.world.all_reduce(bytes, comm::Reduce::kMax));
    }
  }
  if (GetParam().change == wide && ranks > 1) {  // it can be split in every way
    for (const double seen :
         {most[comm::Group::kTp], most[comm::Group::kPp], most[comm::Group::kEp],
          most[comm::Group::kDp], most[comm::Group::kReplicas], most[comm::Group::kStage]}) {
      EXPECT_GT(seen, 0.0) << "a group that never sent anything was not checked";
    }
  }
}

// Protects: gradients and moments take exactly what plan says, over all ranks and on the fullest.
TEST_P(LayoutTest, TrainedMemoryIsAsPlanned) {
  const int ranks = comm::Communicator::world().size();
  for (const config::Config& config : some_of(layouts(golden.config, ranks), 14)) {
    SCOPED_TRACE(text_of(config));
    const comm::Mesh& mesh = meshes_.of(config);
    engine::Instance instance(config, mesh, engine::Use::kTraining, gates_of(config));
    const auto own = instance.parameters.trained_bytes(config.train.moments);
    const plan::TrainedMemory planned =
        plan::trained_memory(config, plan::Layout::of(config, ranks), gates_of(config),
                             model::tuning_of(config, gates_of(config)));
    const auto expect = [&](std::int64_t bytes, std::int64_t most, std::int64_t all) {
      EXPECT_EQ(mesh.world.all_reduce(bytes, comm::Reduce::kMax), most);
      EXPECT_EQ(mesh.world.all_reduce(bytes, comm::Reduce::kSum), all);
    };
    expect(own.elements, planned.largest.elements, planned.sum.elements);
    expect(own.gradients, planned.largest.gradients, planned.sum.gradients);
    expect(own.moments, planned.largest.moments, planned.sum.moments);
    std::int64_t held = 0;  // what there really is
    for (const model::Parameter& p : instance.parameters.all()) {
      held += p.grad.defined() ? 4 * model::padded(p.grad.numel()) : 0;
    }
    EXPECT_EQ(held, own.gradients);
  }
}

TEST_P(LayoutTest, TrafficIsAsPlanned) {
  if (GetParam().short_rows) {
    GTEST_SKIP() << "plan knows rows of one length";
  }
  compare_traffic(golden.config);
}

// Protects: the same of rows to experts, to the byte, where all experts get as many from each rank.
TEST_P(LayoutTest, BalancedTrafficIsAsPlanned) {
  constexpr std::size_t kTokens = 16;
  if (GetParam().change != wide || GetParam().bf16 || GetParam().short_rows) {
    GTEST_SKIP() << "its choices are not a multiple of experts and ranks";
  }
  for (data::MicroBatch& row : golden.rows) {
    cut(row, kTokens);
  }
  config::Config balanced = golden.config;
  balanced.router.force = config::Force::kBalanced;
  compare_traffic(balanced);
}

// Protects: that the cases are what they say; a test of drops without drops would pass as well.
TEST_P(LayoutTest, CaseIsWhatItSays) {
  const Outcome& alone = serial();
  const config::Router& router = golden.config.router;
  const auto regular = static_cast<std::size_t>(golden.config.model.experts);
  const std::size_t experts = regular + static_cast<std::size_t>(router.spare_experts);
  double dropped = 0.0;
  double rerouted = 0.0;
  double spare = 0.0;
  for (std::size_t layer = 0; layer < static_cast<std::size_t>(layers()); ++layer) {
    const double* const counts = alone.counts.data() + layer * 4 * experts;
    EXPECT_TRUE(!GetParam().starve || counts[0] == 0.0) << counts[0];
    for (std::size_t e = 0; e < experts; ++e) {
      dropped += counts[experts + e];
      rerouted += counts[2 * experts + e];
      spare += e >= regular ? counts[3 * experts + e] : 0.0;
    }
  }
  const bool may_move = router.overflow != config::Overflow::kDrop;
  EXPECT_TRUE(may_move || (dropped > 0.0) == (router.capacity > 0));
  EXPECT_EQ(rerouted > 0.0, may_move);
  EXPECT_EQ(spare > 0.0, router.overflow == config::Overflow::kSpare);
}

INSTANTIATE_TEST_SUITE_P(All, LayoutTest, ::testing::ValuesIn(layout_cases()),
                         [](const auto& test) { return std::string(test.param.name); });

}  // namespace
}  // namespace moesaic::testing
