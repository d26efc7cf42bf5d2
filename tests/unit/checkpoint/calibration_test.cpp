// What a calibration finds: means of squared inputs, for experts those of their own tokens.
#include "checkpoint/calibration.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "backend/transfer.h"
#include "checkpoint/quantize.h"
#include "engine/pipeline.h"

namespace moesaic::checkpoint {
namespace {

config::Config small_model() {
  config::Config config;
  config.model.layers = 1;
  config.model.d_model = 16;
  config.model.heads = config.model.kv_heads = 2;
  config.model.head_dim = 8;
  config.model.vocab_size = 40;
  config.model.experts = 2;
  config.model.shared_experts = 0;
  config.model.top_k = 1;
  config.model.expert_d_ff = 24;
  config.model.d_ff = 24;
  config.run.precision = DType::kF32;
  config.run.threads = 1;
  return config;
}

data::MicroBatch batch_of(std::int32_t tokens) {
  data::MicroBatch batch;
  for (std::int32_t t = 0; t < tokens; ++t) {
    batch.token.push_back((7 * t + t / 5) % 40);
    batch.target.push_back(-1);
    batch.position.push_back(t % 50);
    batch.first_key.push_back(t - t % 50);
    batch.task.push_back(0);
  }
  return batch;
}

struct Seen {
  comm::Mesh mesh = comm::Mesh::single();
  config::Config config = small_model();
  engine::Instance instance{config, mesh, engine::Use::kManyRows};
  model::ActivationStatistics sums;
  Calibration found;

  explicit Seen(std::int32_t tokens) {
    instance.parameters.initialise(*instance.backend, 3);
    model::Context ctx = instance.context();
    ctx.batch.dropless = true;
    ctx.observers = {sums.observer()};
    const data::MicroBatch batch = batch_of(tokens);
    engine::forward_all(instance, ctx, std::span(&batch, 1),
                        [&](std::size_t, const Tensor& hidden) {
                          instance.transformer.head().log_probs(ctx, hidden);
                        });
    std::vector<std::string> names;
    for (const auto& [name, kind] : stored_kinds(config.model, config.router, {})) {
      if (kind.packable) {
        names.push_back(name);
      }
    }
    found = join_sums(instance, sums, names);
  }
  const model::ActivationStatistics::Sums& of(const std::string& name) const {
    for (const model::Parameter& p : instance.parameters.all()) {
      if (std::any_of(p.spec.tensors.begin(), p.spec.tensors.end(),
                      [&](const model::PublicTensor& tensor) { return tensor.name == name; })) {
        return *sums.of(p);
      }
    }
    throw Error(Exit::kInternal, name);
  }
};

// Group g's squares divided by the rows.
std::vector<float> means(const model::ActivationStatistics::Sums& sums, std::size_t g,
                         std::size_t columns, std::int64_t rows) {
  std::vector<float> result;
  for (std::size_t k = 0; k < columns; ++k) {
    result.push_back(static_cast<float>(sums.squares[g * columns + k] / static_cast<double>(rows)));
  }
  return result;
}

// Protects: each group's columns are those of its own rows; a group without rows has zeros.
// Numbers are the same in fp32 and, where they fit, in bf16.
TEST(Calibration, SumsOfSquares) {
  const auto backend = make_cpu_backend(1);
  const comm::Communicator alone;
  const auto group = comm::make_mpi_collectives(*backend, alone);
  PhaseClock clock;
  const model::Device device{
      .backend = *backend, .tp = *group, .cp = *group, .experts = *group, .clock = clock};
  const std::vector<float> values{1, 2, 3, 4, -5, 6};
  const Tensor x = backend->empty(DType::kF32, {3, 2});
  backend->upload(std::as_bytes(std::span(values)), x);
  model::Parameter weight;
  model::ActivationStatistics sums;
  const model::Observer observer = sums.observer();
  const Tensor offsets = to_device(*backend, std::vector<std::int32_t>{0, 1, 1, 3}, {4});
  observer.on_linear({.device = device, .x = x, .offsets = offsets, .weight = weight});
  const Tensor narrow = backend->empty(DType::kBf16, {3, 2});
  backend->convert(x, narrow);
  observer.on_linear({.device = device, .x = narrow, .offsets = offsets, .weight = weight});
  ASSERT_NE(sums.of(weight), nullptr);
  EXPECT_EQ(sums.of(weight)->squares, (std::vector<double>{2, 8, 0, 0, 68, 104}));
  EXPECT_EQ(sums.of(weight)->rows, (std::vector<std::int64_t>{2, 0, 4}));
  const model::Parameter other;
  EXPECT_EQ(sums.of(other), nullptr);
}

// Protects: fused tensors share what they read, and an expert has the mean over its own tokens.
TEST(Calibration, EachTensorHasItsInputs) {
  const Seen seen(700);
  const auto& mean_squares = seen.found.mean_squares;
  const auto& q = mean_squares.at("model.layers.0.self_attn.q_proj.weight");
  EXPECT_EQ(q.size(), 16U);
  EXPECT_EQ(q, mean_squares.at("model.layers.0.self_attn.v_proj.weight"));
  EXPECT_EQ(mean_squares.at("lm_head.weight").size(), 16U);
  EXPECT_FALSE(mean_squares.contains("model.embed_tokens.weight"));
  const std::string prefix = "model.layers.0.mlp.experts.";
  const model::ActivationStatistics::Sums& gate = seen.of(prefix + "0.gate_proj.weight");
  const model::ActivationStatistics::Sums& down = seen.of(prefix + "0.down_proj.weight");
  EXPECT_EQ(gate.rows[0] + gate.rows[1], 700);
  const std::size_t busiest = gate.rows[0] > gate.rows[1] ? 0 : 1;
  const std::string expert = prefix + std::to_string(busiest);
  const std::int64_t rows = gate.rows[busiest];
  EXPECT_EQ(mean_squares.at(expert + ".up_proj.weight"), means(gate, busiest, 16, rows));
  EXPECT_EQ(mean_squares.at(expert + ".down_proj.weight"), means(down, busiest, 24, rows));
}

// Protects: experts that met few tokens get the layer's inputs, their down none, and one warning
// names them with their counts.
TEST(Calibration, ExpertsThatMetFewTokens) {
  const Seen seen(100);
  const std::string prefix = "model.layers.0.mlp.experts.";
  const model::ActivationStatistics::Sums& gate = seen.of(prefix + "0.gate_proj.weight");
  model::ActivationStatistics::Sums all = gate;
  for (std::size_t k = 0; k < 16; ++k) {
    all.squares[k] = gate.squares[k] + gate.squares[16 + k];
  }
  for (const char* const number : {"0", "1"}) {
    EXPECT_EQ(seen.found.mean_squares.at(prefix + number + ".gate_proj.weight"),
              means(all, 0, 16, 100));
    EXPECT_FALSE(seen.found.mean_squares.contains(prefix + number + ".down_proj.weight"));
  }
  ASSERT_EQ(seen.found.warnings.size(), 1U);
  EXPECT_EQ(
      seen.found.warnings[0],
      "model.layers.0: 2 of its experts met fewer than 256 tokens of convert.calibration, and "
      "are rounded as all tokens of the layer suggest: 0 (" +
          std::to_string(gate.rows[0]) + "), 1 (" + std::to_string(gate.rows[1]) + ")");
}

// Protects: only matrices that products alone read are stored quantized.
TEST(Calibration, KindsOfTensors) {
  config::Config config = small_model();
  auto kinds = stored_kinds(config.model, config.router, {});
  EXPECT_TRUE(kinds.at("lm_head.weight").packable);
  EXPECT_TRUE(kinds.at("model.layers.0.mlp.experts.1.down_proj.weight").packable);
  EXPECT_FALSE(kinds.at("model.embed_tokens.weight").packable);
  EXPECT_FALSE(kinds.at("model.norm.weight").packable);
  EXPECT_FALSE(kinds.at("model.layers.0.mlp.gate.weight").packable);
  EXPECT_TRUE(kinds.at("model.layers.0.mlp.gate.load").state);
  config.model.tie_embeddings = true;
  kinds = stored_kinds(config.model, config.router, {});
  EXPECT_FALSE(kinds.at("model.embed_tokens.weight").packable);
  EXPECT_FALSE(kinds.contains("lm_head.weight"));
}

}  // namespace
}  // namespace moesaic::checkpoint
