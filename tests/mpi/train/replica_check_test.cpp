// Ranks that should hold the same parameters: alike after real steps, and found when they are not.
#include "train/replica_check.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "config/validate.h"
#include "support/golden.h"
#include "train/optimizer.h"
#include "train/step.h"

namespace moesaic::train {
namespace {

using Ranks = std::vector<int>;

config::Config small(const config::Parallel& parallel) {
  config::Config c = testing::Golden::read("softmax").config;
  c.model.heads = 4;
  c.model.kv_heads = 2;
  c.model.experts = 8;
  c.model.tie_embeddings = parallel.pp > 1;
  c.parallel = parallel;
  c.parallel.expert_tp = parallel.tp;
  return c;
}

// All kinds of groups that hold copies.
std::vector<config::Config> layouts(int ranks) {
  std::vector<config::Config> list;
  for (int tp = 1; tp <= ranks; tp *= 2) {
    for (int pp = 1; tp * pp <= ranks && pp <= 2; ++pp) {
      for (int ep = 1; tp * pp * ep <= ranks; ep *= 2) {
        for (int cp = 1; tp * pp * ep * cp <= ranks; cp *= 2) {
          for (const int options : {0, 1}) {
            config::Parallel parallel;
            parallel.tp = tp;
            parallel.pp = pp;
            parallel.ep = ep;
            parallel.cp = cp;
            parallel.zero = options;
            parallel.sequence = tp > 1 && options == 1;
            list.push_back(small(parallel));
          }
        }
      }
    }
  }
  return list;
}

class ReplicaCheck : public ::testing::Test {
 protected:
  // Collective over the mesh.
  void train(engine::Instance& instance, const config::Config& config, int steps) const {
    instance.parameters.initialise(*instance.backend, 7);
    model::Context ctx = instance.context();
    ctx.batch.step_tokens = golden.batch().size();
    const auto own = static_cast<std::size_t>(instance.mesh[comm::Group::kBatches].rank());
    const std::vector<data::MicroBatch> batches = {golden.rows[own % golden.rows.size()]};
    for (int step = 1; step <= steps; ++step) {
      zero_gradients(instance);
      forward_backward(instance, ctx, batches, cross_entropy(), 100.0);
      const GradientBuffer none(instance, 0);
      optimizer_step(instance, none, config.train, 1e-3, step, gradient_norm(instance, none));
    }
  }

  // Flips the lowest bit of a tensor's last element, if this rank has it.
  static void flip(engine::Instance& instance, const std::string& name,
                   Tensor model::Parameter::*member) {
    for (const model::Parameter& p : instance.parameters.all()) {
      for (const model::PublicTensor& tensor : p.spec.tensors) {
        if (tensor.name == name) {
          const std::int64_t last = tensor.begin + tensor.slice_shape().numel() - 1;
          auto* const byte = (p.*member).data() + 4 * last;
          *byte ^= std::byte{1};
        }
      }
    }
  }

  struct Case {
    config::Parallel parallel;
    std::string tensor;
    int rank;  // whose bit flips
    Ranks named;
    Tensor model::Parameter::*member = &model::Parameter::value;
  };

  void expect_found(const std::vector<Case>& cases) const {
    for (const Case& flipped : cases) {
      const config::Config config = small(flipped.parallel);
      comm::Mesh mesh = engine::make_mesh(config);
      engine::Instance instance(config, mesh, engine::Use::kTraining);
      train(instance, config, 1);
      if (world.rank() == flipped.rank) {
        flip(instance, flipped.tensor, flipped.member);
      }
      SCOPED_TRACE(flipped.tensor + " on " + mesh.layout.text());
      const auto found = compare_replicas(instance);
      ASSERT_TRUE(found);
      EXPECT_EQ(found->tensor, flipped.tensor);
      EXPECT_EQ(found->ranks, flipped.named) << found->message;
      EXPECT_NE(found->message.find(fmt::format("rank {} on ", flipped.rank)), std::string::npos);
      EXPECT_NE(found->message.find(flipped.tensor), std::string::npos);
      mesh.close();
    }
  }

  comm::Communicator world = comm::Communicator::world();
  testing::Golden golden = testing::Golden::read("softmax");
};

constexpr const char* kNorm = "model.layers.0.input_layernorm.weight";
constexpr const char* kQuery = "model.layers.0.self_attn.q_proj.weight";
constexpr const char* kKey = "model.layers.0.self_attn.k_proj.weight";
constexpr const char* kGate = "model.layers.1.mlp.gate.weight";
constexpr const char* kExpert = "model.layers.1.mlp.experts.0.down_proj.weight";
constexpr const char* kTable = "model.embed_tokens.weight";

// Protects: no sound run is ended, in any layout, with the moments shared out or not.
TEST_F(ReplicaCheck, SoundRanksAreAlike) {
  for (const config::Config& config : layouts(world.size())) {
    comm::Mesh mesh = engine::make_mesh(config);
    SCOPED_TRACE(fmt::format("{} zero={}", mesh.layout.text(), config.parallel.zero));
    engine::Instance instance(config, mesh, engine::Use::kTraining);
    train(instance, config, 0);
    EXPECT_FALSE(compare_replicas(instance));
    train(instance, config, 3);
    const auto found = compare_replicas(instance);
    EXPECT_FALSE(found) << found->message;
    mesh.close();
  }
}

// Protects: one flipped bit is found, and the tensor and the ranks are named.
TEST_F(ReplicaCheck, FlippedBitIsFound) {
  if (world.size() == 2) {
    expect_found({{{}, kQuery, 1, {0, 1}},
                  {{.zero = 1}, kExpert, 0, {0, 1}},
                  {{}, kExpert, 1, {0, 1}, &model::Parameter::exp_avg_sq},
                  {{.ep = 2}, kTable, 0, {0, 1}},
                  {{.tp = 2}, kNorm, 1, {0, 1}},
                  {{.tp = 2, .sequence = true}, kGate, 1, {0, 1}},
                  {{.cp = 2}, kExpert, 1, {0, 1}},
                  {{.pp = 2}, kTable, 1, {0, 1}}});
  } else if (world.size() == 4) {
    expect_found({{{}, kQuery, 2, {2}},
                  {{.tp = 2}, kNorm, 3, {3}},
                  {{.tp = 2, .zero = 1}, kQuery, 1, {1, 3}},
                  {{.ep = 2}, kGate, 1, {1}},
                  {{.ep = 2}, kExpert, 0, {0, 2}},
                  {{.ep = 2, .cp = 2}, kExpert, 0, {0, 2}},
                  {{.tp = 4}, kKey, 0, {0, 1}},
                  {{.pp = 2}, kTable, 2, {2}},
                  {{.tp = 2, .pp = 2}, kTable, 2, {0, 2}}});
  }
}

// Protects: every single bit counts, wherever it lies, and a length too.
TEST(BitHash, EveryBitCounts) {
  std::vector<std::byte> bytes(101, std::byte{0});
  const auto hash = [&] {
    BitHash all;
    all.add(std::span(bytes).first(64));
    all.add(std::span(bytes).subspan(64));
    return all.value();
  };
  std::vector<std::uint64_t> seen = {hash()};
  for (std::size_t bit = 0; bit < 8 * bytes.size(); ++bit) {
    const auto one = static_cast<std::byte>(1U << (bit % 8));
    bytes[bit / 8] = one;
    seen.push_back(hash());
    bytes[bit / 8] = std::byte{0};
  }
  bytes.resize(102);
  seen.push_back(hash());
  std::sort(seen.begin(), seen.end());
  EXPECT_EQ(std::adjacent_find(seen.begin(), seen.end()), seen.end());
}

}  // namespace
}  // namespace moesaic::train
