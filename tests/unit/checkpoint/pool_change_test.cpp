// Experts that come, go and move: what becomes of pools, loads and tensors.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>

#include "base/error.h"
#include "base/json.h"
#include "checkpoint/changed_checkpoint.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/expert_pool_change.h"
#include "checkpoint/load_weights.h"
#include "config/validate.h"
#include "routing/expert_pool.h"
#include "support/random_batches.h"
#include "support/temp_dir.h"
#include "train/stepper.h"

namespace moesaic::testing {
namespace {

using checkpoint::LayerChange;
using checkpoint::PoolChange;
using config::PoolAction;
using config::PoolRequest;

config::Config small_config() {
  config::Config c;
  c.model = {.path = {},
             .layers = 3,
             .d_model = 20,
             .heads = 2,
             .d_ff = 24,
             .vocab_size = 31,
             .max_seq = 16,
             .dense_layers = 1,
             .experts = 4,
             .shared_experts = 0,
             .top_k = 2,
             .expert_d_ff = 12};
  c.router.score = config::Score::kSigmoid;  // of one expert, whatever others there are
  c.router.balance = config::Balance::kBias;
  c.data.seq_len = 16;
  c.train.batch = 4;
  c.train.micro_batch = 2;
  c.train.steps = 8;
  c.run.precision = DType::kF32;
  c.run.threads = 1;
  config::resolve(c, "train");
  return c;
}

std::vector<std::vector<float>> loads() {
  return {{0.1F, 0.4F, 0.3F, 0.2F}, {0.7F, 0.0F, 0.1F, 0.2F}};
}

std::string message_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Exit::kUsage);
    return error.what();
  }
  return {};
}

// Protects: each layer's own load decides; numbers are those of the checkpoint and are not reused.
TEST(PoolChange, ByLoad) {
  const config::Config c = small_config();
  const routing::GateState gates;
  const PoolChange grown =
      checkpoint::change_pools(c, gates, {{PoolAction::kClone, 2, {}}}, loads());
  EXPECT_EQ(grown.layers[0].after, "rrrrrr");
  EXPECT_EQ(grown.layers[0].source, (std::vector<std::int32_t>{1, 1}));
  EXPECT_EQ(grown.layers[1].source, (std::vector<std::int32_t>{0, 0}));
  const PoolChange shrunk = checkpoint::change_pools(
      c, gates,
      {{PoolAction::kRemove, 1, {}}, {PoolAction::kAdd, 1, {}}, {PoolAction::kRemove, 1, {3}}},
      loads());
  EXPECT_EQ(shrunk.layers[0].after, "xrrxr");
  EXPECT_EQ(shrunk.layers[1].after, "rxrxr");
  EXPECT_EQ(shrunk.layers[1].source, (std::vector<std::int32_t>{LayerChange::kFresh}));
  EXPECT_EQ(shrunk.text(),
            "layer 1: 4 is new, 0 retired, 3 retired; layer 2: 4 is new, 1 retired, 3 retired");
}

// Protects: the busiest spares, or those named, become regular.
TEST(PoolChange, Promotes) {
  const config::Config c = small_config();
  const routing::GateState gates{.pools = {"rrss", "rsrs"}};
  EXPECT_EQ(
      checkpoint::change_pools(c, gates, {{PoolAction::kPromote, 1, {}}}, loads()).layers[0].after,
      "rrrs");
  EXPECT_EQ(
      checkpoint::change_pools(c, gates, {{PoolAction::kPromote, 1, {3}}}, loads()).layers[1].after,
      "rsrr");
  EXPECT_EQ(
      checkpoint::change_pools(c, gates, {{PoolAction::kPromote, 0, {}}}, loads()).layers[1].after,
      "rsrs");
}

// Protects: what a layer cannot do is refused with its name and numbers before anything is written.
TEST(PoolChange, Refuses) {
  config::Config c = small_config();
  routing::GateState gates;
  const auto refusal = [&](const PoolRequest& request) {
    return message_of([&] { checkpoint::change_pools(c, gates, {request}, loads()); });
  };
  EXPECT_NE(refusal({PoolAction::kRemove, 3, {}}).find("layer 1: 1 regular"), std::string::npos);
  EXPECT_NE(refusal({PoolAction::kRemove, 9, {}}).find("there are 4 regular"), std::string::npos);
  EXPECT_NE(refusal({PoolAction::kRemove, 1, {7}}).find("no expert 7"), std::string::npos);
  EXPECT_NE(refusal({PoolAction::kPromote, 1, {}}).find("there are 0 spare"), std::string::npos);
  EXPECT_NE(refusal({PoolAction::kPromote, 1, {2}}).find("regular already"), std::string::npos);
  gates.pools = {"rrrx", "rrrr"};
  EXPECT_NE(refusal({PoolAction::kClone, 1, {3}}).find("expert 3 is retired"), std::string::npos);
  c.parallel.ep = 3;
  EXPECT_NE(refusal({PoolAction::kRemove, 1, {0}}).find("for 3 ranks"), std::string::npos);
  c.router.groups = 2;
  EXPECT_NE(refusal({PoolAction::kAdd, 1, {}}).find("router.groups"), std::string::npos);
}

// Protects run.control: lines are read as the command line is, and what is no change of experts is
// refused with file and line.
TEST(PoolChange, ControlLines) {
  const auto requests = config::read_requests(
      "# grow\nclone --experts.count 2\n\nremove --experts.source 3,5\nadd\n", "control");
  ASSERT_EQ(requests.size(), 3U);
  EXPECT_EQ(config::text_of(requests[0]), "clone --experts.count 2");
  EXPECT_EQ(config::text_of(requests[1]), "remove --experts.source 3,5");
  EXPECT_EQ(config::text_of(requests[2]), "add --experts.count 1");
  const std::vector<std::pair<std::string, std::string>> bad{
      {"", "nothing"},
      {"grow", "control:1"},
      {"add\nclone --experts.count x", "control:2"},
      {"add --train.lr 1", "train.lr"},
      {"clone --experts.source 1,2", "copies one"},
      {"remove --experts.source 1,1", "twice"},
      {"remove --experts.source busiest", "busiest"},
      {"add 3", "a line is ACTION"}};
  for (const auto& one : bad) {
    const std::string found = message_of([&] { config::read_requests(one.first, "control"); });
    EXPECT_NE(found.find(one.second), std::string::npos) << one.first;
  }
}

// Protects: ranks get equal numbers and, as far as that allows, equal work; retired experts nobody.
TEST(ExpertPool, ByLoad) {
  const std::vector<float> load{0.1F, 0.4F, 0.05F, 0.2F, 0.15F, 0.1F};
  const routing::ExpertPool two = routing::make_expert_pool("rrrrrr", 2, load);
  EXPECT_EQ(two.of_rank, (std::vector<std::vector<std::int32_t>>{{1, 2, 5}, {0, 3, 4}}));
  const routing::ExpertPool four = routing::make_expert_pool("rrrxrs", 4, load);
  EXPECT_EQ(four.of_rank, (std::vector<std::vector<std::int32_t>>{{1}, {4}, {0, 2}, {5}}));
  for (int ranks = 1; ranks <= 6; ++ranks) {
    std::size_t least = 6;
    std::size_t most = 0;
    std::vector<std::int32_t> all;
    for (const auto& own : routing::make_expert_pool("rrrrrr", ranks, load).of_rank) {
      least = std::min(least, own.size());
      most = std::max(most, own.size());
      all.insert(all.end(), own.begin(), own.end());
    }
    std::sort(all.begin(), all.end());
    EXPECT_EQ(all, (std::vector<std::int32_t>{0, 1, 2, 3, 4, 5}));
    EXPECT_LE(most - least, 1U);
  }
}

class Changed : public ::testing::Test {
 protected:
  Changed() : before(config, mesh, engine::Use::kTraining) {
    before.parameters.initialise(*before.backend, config.train.seed);
    train::Stepper stepper(config, before, 1);
    for (std::int64_t step = 1; step <= 2; ++step) {
      stepper.update(stepper.compute(random_batches(config, 5), step));
    }
  }

  void save() {
    const auto blocks = checkpoint::blocks_to_save(before);
    path = checkpoint::save_checkpoint({.dir = dir / "c", .step = 2, .state = {}, .copy = {}},
                                       blocks, mesh.world);
  }

  // The saved model with the requests done.
  std::unique_ptr<engine::Instance> changed(const std::vector<PoolRequest>& requests) {
    auto checkpoint = checkpoint::ModelSource::open(path);
    const PoolChange change = checkpoint::change_pools(config, {}, requests, {});
    routing::GateState after;
    checkpoint::adopt(change, config, after);
    auto instance = std::make_unique<engine::Instance>(config, mesh, engine::Use::kTraining, after);
    checkpoint::load_parameters(*instance, checkpoint, checkpoint::Load::kAll, {}, &change);
    return instance;
  }

  // A public tensor that fills a parameter, or lies in one.
  static std::vector<float> values(engine::Instance& instance, const std::string& name,
                                   Tensor model::Parameter::*member = &model::Parameter::value) {
    for (model::Parameter& p : instance.parameters.all()) {
      for (const model::PublicTensor& tensor : p.spec.tensors) {
        if (tensor.name == name) {
          const auto all = (p.*member).as<float>();
          const auto begin = all.begin() + tensor.begin;
          return {begin, begin + tensor.slice_shape().numel()};
        }
      }
    }
    ADD_FAILURE() << "no tensor " << name;
    return {};
  }

  double loss(engine::Instance& instance) const {
    train::Stepper stepper(config, instance, 1);
    return stepper.compute(random_batches(config, 5), 3).lm_loss;
  }

  config::Config config = small_config();
  comm::Mesh mesh = comm::Mesh::single();
  engine::Instance before;
  TempDir dir;
  std::filesystem::path path;
};

std::string in_layer(const std::string& name) { return "model.layers.1.mlp." + name; }

// Protects: a copy is near its source and not equal to it, its row of the gate too; its moments are
// 0, while those of the others and all their values stay.
TEST_F(Changed, Clone) {
  save();
  const auto after = changed({{PoolAction::kClone, 1, {2}}});
  for (const char* name : {"gate_proj", "up_proj", "down_proj"}) {
    const auto tensor = [&](int e) {
      return in_layer(fmt::format("experts.{}.{}.weight", e, name));
    };
    const std::vector<float> source = values(before, tensor(2));
    const std::vector<float> copy = values(*after, tensor(4));
    EXPECT_EQ(values(*after, tensor(2)), source);
    double noise = 0.0;
    double power = 0.0;
    for (std::size_t i = 0; i < source.size(); ++i) {
      noise += std::pow(static_cast<double>(copy[i] - source[i]), 2);
      power += std::pow(static_cast<double>(source[i]), 2);
    }
    EXPECT_NEAR(std::sqrt(noise / power), 0.01, 0.002) << name;
    EXPECT_EQ(values(*after, tensor(4), &model::Parameter::exp_avg),
              std::vector<float>(source.size(), 0.0F));
    EXPECT_EQ(values(*after, tensor(3), &model::Parameter::exp_avg),
              values(before, tensor(3), &model::Parameter::exp_avg));
  }
  const std::vector<float> gate = values(before, in_layer("gate.weight"));
  const std::vector<float> wider = values(*after, in_layer("gate.weight"));
  ASSERT_EQ(wider.size(), 5U * 20U);
  EXPECT_TRUE(std::equal(gate.begin(), gate.end(), wider.begin()));
  for (std::size_t i = 0; i < 20; ++i) {
    EXPECT_NE(wider[80 + i], gate[40 + i]);
    EXPECT_NEAR(wider[80 + i], gate[40 + i], 0.02);
  }
  const auto average = values(*after, in_layer("gate.weight"), &model::Parameter::exp_avg);
  EXPECT_TRUE(std::all_of(average.begin() + 80, average.end(), [](float x) { return x == 0.0F; }));
  for (const char* name : {"gate.e_score_correction_bias", "gate.load"}) {
    const std::vector<float> vector = values(*after, in_layer(name));
    EXPECT_EQ(vector.at(4), values(before, in_layer(name)).at(2)) << name;
  }
}

// Protects: what is fresh begins as in a model that had it from the start; its bias and load are
// those of an average expert.
TEST_F(Changed, Add) {
  save();
  const auto after = changed({{PoolAction::kAdd, 1, {}}});
  config::Config wide = config;
  wide.model.experts = 5;
  engine::Instance fresh(wide, mesh, engine::Use::kTraining);
  fresh.parameters.initialise(*fresh.backend, config.train.seed);
  const std::string name = in_layer("experts.4.up_proj.weight");
  EXPECT_EQ(values(*after, name), values(fresh, name));
  const std::vector<float> gate = values(*after, in_layer("gate.weight"));
  const std::vector<float> wanted = values(fresh, in_layer("gate.weight"));
  EXPECT_TRUE(std::equal(gate.begin() + 80, gate.end(), wanted.begin() + 80));
  for (const char* vector : {"gate.e_score_correction_bias", "gate.load"}) {
    const std::vector<float> old = values(before, in_layer(vector));
    const double mean = std::accumulate(old.begin(), old.end(), 0.0) / 4.0;
    EXPECT_FLOAT_EQ(values(*after, in_layer(vector)).at(4), static_cast<float>(mean)) << vector;
  }
  EXPECT_TRUE(std::isfinite(loss(*after)));
}

// Protects: a model without an expert computes what one computes whose router never chooses it.
TEST_F(Changed, Remove) {
  for (model::Parameter& p : before.parameters.all()) {
    if (p.spec.tensors.front().name.ends_with("e_score_correction_bias")) {
      p.value.as<float>()[1] = -1e9F;
    }
  }
  save();
  const auto after = changed({{PoolAction::kRemove, 1, {1}}});
  EXPECT_NEAR(loss(*after), loss(before), 1e-6);
}

// Protects what is kept for each expert beside the parameters: it stays with its expert, and new
// ones begin anew.
TEST_F(Changed, OtherTensorsOfExperts) {
  const std::vector<float> counts{3.0F, 4.0F, 5.0F, 6.0F};
  const std::vector<float> held{7.0F, 8.0F};
  const std::string steps = in_layer("experts_held.steps");
  const auto of = [](int e) { return in_layer(fmt::format("experts_held.{}.up_proj.weight", e)); };
  path = checkpoint::save_checkpoint({.dir = dir / "c", .step = 2, .state = {}, .copy = {}},
                                     {{.name = steps,
                                       .shape = {4},
                                       .offset = {0},
                                       .extent = {4},
                                       .values = checkpoint::given(counts)},
                                      {.name = of(2),
                                       .shape = {2},
                                       .offset = {0},
                                       .extent = {2},
                                       .values = checkpoint::given(held)}},
                                     mesh.world);
  auto checkpoint = checkpoint::ModelSource::open(path);
  const PoolChange change =
      checkpoint::change_pools(config, {}, {{PoolAction::kClone, 1, {2}}}, {});
  checkpoint::ChangedCheckpoint source(checkpoint, &change);
  const model::ParameterSpec spec{.shape = {5}, .tensors = {}, .state = true};
  model::PublicTensor rows = model::whole_tensor(steps, {5});
  rows.rows = model::TensorRows::kExpertsAnew;
  EXPECT_EQ(source.stored_shape(rows), (Shape{4}));
  std::vector<float> values(5, 0.5F);
  source.read("", spec, rows, {0}, {5}, values);
  EXPECT_EQ(values, (std::vector<float>{3.0F, 4.0F, 5.0F, 6.0F, 0.5F}));
  std::vector<float> own(2, 0.0F);
  source.read("", spec, model::whole_tensor(of(2), {2}), {0}, {2}, own);
  EXPECT_EQ(own, held);
  const model::PublicTensor copy = model::whole_tensor(of(4), {2});
  EXPECT_FALSE(source.stored_shape(copy).has_value());
  source.read("", spec, copy, {0}, {2}, own = {0.0F, 0.0F});
  EXPECT_EQ(own, (std::vector<float>{0.0F, 0.0F}));
}

// Protects: the measured load is a mean of shares, so that it sums to 1 from the first step on.
TEST_F(Changed, LoadsAreShares) {
  for (const char* layer : {"model.layers.1.", "model.layers.2."}) {
    const std::vector<float> load = values(before, layer + std::string("mlp.gate.load"));
    EXPECT_NEAR(std::accumulate(load.begin(), load.end(), 0.0), 1.0, 1e-6);
    EXPECT_GT(*std::max_element(load.begin(), load.end()), 0.25F);
  }
}

}  // namespace
}  // namespace moesaic::testing
