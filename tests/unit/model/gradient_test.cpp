// Every layer's backward against central differences of its forward, in fp32: of a random linear
// functional of the output, plus the auxiliary losses.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>

#include "backend/transfer.h"
#include "model/layers/block.h"
#include "model/moe_stats.h"
#include "model/transformer.h"
#include "routing/gate_state.h"
#include "tensor/rng.h"

namespace moesaic::model {
namespace {

constexpr std::int64_t kTokens = 11, kWidth = 10, kExperts = 5, kSpares = 2;

// Three documents of 4, 1 and 6 tokens; each token has a task of its own, so that the counts by
// task are the experts of each token.
data::MicroBatch packed_batch() {
  data::MicroBatch batch;
  for (const int length : {4, 1, 6}) {
    const std::int32_t sample = batch.sample.empty() ? 0 : batch.sample.back() + 1;
    const auto begin = static_cast<std::int32_t>(batch.size());
    for (std::int32_t i = 0; i < length; ++i) {
      batch.task.push_back(static_cast<std::uint8_t>(batch.size()));
      batch.token.push_back(0);
      batch.target.push_back(-1);
      batch.position.push_back(i);
      batch.first_key.push_back(begin);
      batch.sample.push_back(sample);
    }
  }
  return batch;
}

std::vector<float> normals(std::int64_t count, std::uint64_t stream) {
  const Rng rng(3, stream);
  std::vector<float> values;
  for (std::int64_t i = 0; i < count; ++i) {
    values.push_back(static_cast<float>(rng.normal(static_cast<std::uint64_t>(i))));
  }
  return values;
}

class GradientTest : public ::testing::Test {
 protected:
  explicit GradientTest(Tuning tuning = {}) : parameters(std::move(tuning)) {
    options.aux_loss = 0.5;
    options.z_loss = 0.1;
    sizes.d_model = kWidth;
    sizes.experts = kExperts;
    sizes.expert_d_ff = 7;
    sizes.shared_experts = 0;
    sizes.heads = 3;
    sizes.kv_heads = 1;
    sizes.head_dim = 6;
    sizes.rope_theta = 100.0;
    set_batch(ctx, batch);
    ctx.observers = {stats.observer()};
    ctx.batch.step_tokens = 20;
  }

  Attention make_attention() { return {parameters, "attention.", sizes, 0, 1.0, 1.0, {}}; }

  LatentAttention make_latent() { return {parameters, "attention.", sizes, 0, 1.0, 1.0, {}}; }

  Moe make_moe() {
    return {
        parameters, "moe.",
        sizes,      options,
        0,          routing::make_expert_pool(routing::expert_pool_of(sizes, options, {}, 0), 1),
        tasks,      1.0,
        1.0,        {}};
  }

  Block make_block(Block::Ffn ffn) {
    RmsNorm first(parameters, "first", kWidth, 1e-5F, {});
    Attention attention = make_attention();
    RmsNorm second(parameters, "second", kWidth, 1e-5F, {});
    return {first, attention, second, std::move(ffn)};
  }

  Tensor tensor(std::int64_t rows, std::int64_t columns, std::uint64_t stream) {
    return to_device(*backend, normals(rows * columns, stream), {rows, columns});
  }

  template <Layer L>
  double loss(const L& layer, const Tensor& x, const Tensor& weight) {
    stats.clear();
    const Tensor y = layer.forward(ctx, x, nullptr);
    double sum = (options.aux_loss * stats.sums(0)[0] + options.z_loss * stats.sums(0)[1]) /
                 static_cast<double>(ctx.batch.step_tokens);
    for (std::size_t i = 0; i < y.as<float>().size(); ++i) {
      sum += static_cast<double>(y.as<float>()[i]) * static_cast<double>(weight.as<float>()[i]);
    }
    return sum;
  }

  // The input's gradient and every parameter's, along random directions.
  template <Layer L>
  void check(const L& layer, std::int64_t in = kWidth) {
    parameters.allocate(*backend, {});
    std::uint64_t stream = 100;
    for (const Parameter& p : parameters.all()) {
      if (p.is_trained()) {
        backend->zero(p.grad);
      }
      if (p.spec.tensors.front().name.ends_with("gate.load")) {
        continue;  // counts for nothing here
      }
      const std::vector<float> values = normals(p.value.numel(), ++stream);
      const bool of_loads = p.spec.tensors.front().name.ends_with("previous_load");
      for (std::size_t i = 0; (!p.spec.state || of_loads) && i < values.size(); ++i) {
        p.value.as<float>()[i] = 0.5F * values[i];
      }
    }
    const Tensor x = tensor(kTokens, in, input_stream);
    typename L::Saved saved;
    const Tensor y = layer.forward(ctx, x, &saved);
    const Tensor weight = tensor(kTokens, y.dim(1), 2);
    const Tensor dx = layer.backward(ctx, weight, saved);
    const auto value = [&] { return loss(layer, x, weight); };
    expect_slopes("input", x, dx, value);
    for (const Parameter& p : parameters.all()) {
      if (p.is_trained()) {
        expect_slopes(p.spec.tensors.front().name, p.value, p.grad, value);
      }
    }
  }

  void expect_slopes(const std::string& name, const Tensor& at, const Tensor& gradient,
                     const std::function<double()>& value) {
    constexpr float kStep = 2e-3F;
    const std::span<float> here = at.as<float>();
    const std::vector<float> start(here.begin(), here.end());
    const double norm = std::sqrt(backend->sum_of_squares(gradient));
    EXPECT_GT(norm, 0.0) << name;
    value();
    const std::vector<double> choices = choices_now();
    for (std::uint64_t direction = 0; direction < 4; ++direction) {
      const std::vector<float> along = normals(at.numel(), 1000 + direction);
      double slope = 0.0;
      for (std::size_t i = 0; i < along.size(); ++i) {
        slope += static_cast<double>(along[i]) * static_cast<double>(gradient.as<float>()[i]);
      }
      const auto shifted = [&](float step) {
        for (std::size_t i = 0; i < start.size(); ++i) {
          here[i] = start[i] + step * along[i];
        }
        const double result = value();
        EXPECT_EQ(choices_now(), choices) << name << ": another choice has no slope";
        std::copy(start.begin(), start.end(), here.begin());
        return result;
      };
      const double measured = (shifted(kStep) - shifted(-kStep)) / (2.0 * kStep);
      EXPECT_NEAR(slope, measured, (kinks ? 2e-2 : 2e-3) * norm)
          << name << ", direction " << direction;
    }
  }

  std::vector<double> choices_now() {
    const auto by_token = stats.by_task(0);
    std::vector<double> all(by_token.begin(), by_token.end());
    for (const auto& counts : {stats.dropped(0), stats.rerouted(0), stats.processed(0)}) {
      all.insert(all.end(), counts.begin(), counts.end());
    }
    return all;
  }

  std::uint64_t input_stream = 1;
  bool kinks = false;  // a clamp may begin or end within a difference
  config::Model sizes;
  config::Router options;
  std::vector<std::string> tasks;
  Parameters parameters;
  std::unique_ptr<Backend> backend = make_cpu_backend(1);
  comm::Communicator alone;
  std::unique_ptr<comm::Collectives> group = comm::make_mpi_collectives(alone);
  PhaseClock clock;
  data::MicroBatch batch = packed_batch();
  MoeStats stats{1, kExperts + kSpares, kTokens, 4};
  Context ctx{{.backend = *backend, .tp = *group, .cp = *group, .experts = *group, .clock = clock}};
};

// The same with an adapter beside every product, which is all that is trained.
class AdapterTest : public GradientTest {
 protected:
  AdapterTest() : GradientTest(tuning()) {}

  static Tuning tuning() {
    config::Adapter adapter;
    adapter.rank = 3;
    adapter.alpha = 2.0;
    adapter.targets = {"*"};
    Tuning tuning{.roles = {}, .adapters = AdapterRules(adapter)};
    tuning.roles.set_trained({NamePattern("adapter", 1, false)}, {});
    return tuning;
  }

  // All products together have so many halves.
  void expect_adapters(std::size_t halves) const {
    std::size_t found = 0;
    for (const Parameter& p : parameters.all()) {
      const bool is_half = is_of_adapter(p.spec.tensors.front().name);
      EXPECT_EQ(p.is_trained(), is_half) << p.spec.tensors.front().name;
      found += is_half ? 1 : 0;
    }
    EXPECT_EQ(found, halves);
  }
};

// Protects, each: backward is the derivative of forward, for odd shapes and packed documents.
TEST_F(GradientTest, RmsNorm) { check(RmsNorm(parameters, "norm", 9, 1e-5F, {}), 9); }

TEST_F(GradientTest, Linear) {
  check(Linear(parameters, {whole_tensor("a", {5, 7}), whole_tensor("b", {8, 7})},
               Linear::Full::kOutput, 1.0, Placement{}),
        7);
}

TEST_F(GradientTest, LinearWithBias) {
  LinearOptions with_bias;
  with_bias.bias = {whole_tensor("a.bias", {5}), whole_tensor("b.bias", {8})};
  check(Linear(parameters, {whole_tensor("a", {5, 7}), whole_tensor("b", {8, 7})},
               Linear::Full::kBoth, 1.0, Placement{}, with_bias),
        7);
}

TEST_F(AdapterTest, Linear) {
  check(Linear(parameters, {whole_tensor("a", {5, 7}), whole_tensor("b", {8, 7})},
               Linear::Full::kBoth, 1.0, Placement{}),
        7);
  expect_adapters(3);  // one A for both, and two B
}

TEST_F(AdapterTest, Attention) {
  check(make_attention());
  expect_adapters(4 + 2);
}

TEST_F(AdapterTest, LatentAttention) {
  sizes.kv_heads = sizes.heads;
  sizes.q_lora_rank = 6;
  sizes.kv_lora_rank = 7;
  sizes.qk_nope_head_dim = 3;
  sizes.qk_rope_head_dim = 6;
  sizes.v_head_dim = 8;
  check(make_latent());
  expect_adapters(5 * 2);
}

TEST_F(AdapterTest, Swiglu) {
  check(Swiglu(parameters, "", kWidth, 13, 1.0, 1.0, {}));
  expect_adapters(3 + 2);
}

TEST_F(AdapterTest, MoeWithItsGate) {
  sizes.shared_experts = 1;
  check(make_moe());
  expect_adapters(2 + (3 + 2) + (3 + 2));
}

TEST_F(GradientTest, Attention) { check(make_attention()); }

TEST_F(GradientTest, AttentionWithBiasesSinksAndWindow) {
  sizes.qkv_bias = sizes.output_bias = sizes.sinks = true;
  sizes.sliding_window = 3;
  check(make_attention());
}

TEST_F(GradientTest, AttentionWithNormedHeads) {
  sizes.qk_norm = config::QkNorm::kHead;
  check(make_attention());
}

TEST_F(GradientTest, AttentionWithNormedProjectionAndClamp) {
  sizes.qk_norm = config::QkNorm::kProjection;
  sizes.clip_qkv = 0.5;
  sizes.rope_interleave = true;
  sizes.rope_scaling = config::RopeScaling::kYarn;
  sizes.rope_factor = 4.0;
  sizes.rope_original_max_seq = 8;
  kinks = true;
  check(make_attention());
}

TEST_F(GradientTest, LatentAttention) {
  sizes.kv_heads = sizes.heads;
  sizes.kv_lora_rank = 7;
  sizes.qk_nope_head_dim = 5;
  sizes.qk_rope_head_dim = 4;
  sizes.v_head_dim = 3;
  sizes.rope_interleave = true;
  check(make_latent());
}

TEST_F(GradientTest, LatentAttentionWithLatentQueriesAndYarn) {
  sizes.kv_heads = sizes.heads;
  sizes.q_lora_rank = 6;
  sizes.kv_lora_rank = 7;
  sizes.qk_nope_head_dim = 3;
  sizes.qk_rope_head_dim = 6;
  sizes.v_head_dim = 8;
  sizes.output_bias = true;
  sizes.sliding_window = 4;
  sizes.rope_scaling = config::RopeScaling::kYarn;
  sizes.rope_factor = 4.0;
  sizes.rope_original_max_seq = 8;
  sizes.rope_mscale = 0.7;
  sizes.rope_mscale_all_dim = 1.3;
  check(make_latent());
}

TEST_F(GradientTest, GatedSwiglu) {
  Swiglu layer(parameters, "", kWidth, 13, 1.0, 1.0, {});
  layer.add_gate(parameters, "gate", kWidth, 1.0, {});
  check(layer);
}

TEST_F(GradientTest, MoeWithBiasesAndClampedExperts) {
  sizes.expert_bias = true;
  sizes.swiglu_limit = 2.5;
  sizes.shared_experts = 1;
  sizes.shared_d_ff = 5;
  sizes.shared_gate = true;
  options.gate_bias = true;
  kinks = true;
  check(make_moe());
}

TEST_F(GradientTest, Swiglu) { check(Swiglu(parameters, "", kWidth, 13, 1.0, 1.0, {})); }

TEST_F(GradientTest, SoftmaxMoe) { check(make_moe()); }

TEST_F(GradientTest, SoftmaxMoeAsScored) {
  options.normalize = false;
  sizes.top_k = 1;
  input_stream = 5;  // no token is near a tie
  check(make_moe());
}

TEST_F(GradientTest, SigmoidMoeWithSharedExperts) {
  options.score = config::Score::kSigmoid;
  options.balance = config::Balance::kBias;
  options.scale = 2.5;
  sizes.top_k = 3;
  sizes.shared_experts = 2;
  check(make_moe());
}

TEST_F(GradientTest, MoeThatDrops) {
  options.capacity = 3;
  check(make_moe());
  const auto dropped = stats.dropped(0);
  EXPECT_GT(*std::max_element(dropped.begin(), dropped.end()), 0.0);
}

TEST_F(GradientTest, MoeThatMovesToTheNextBest) {
  options.capacity = 3;
  options.overflow = config::Overflow::kNext;
  check(make_moe());
  EXPECT_GT(std::accumulate(stats.rerouted(0).begin(), stats.rerouted(0).end(), 0.0), 0.0);
}

TEST_F(GradientTest, MoeWithSpares) {
  for (const config::Score score : {config::Score::kSoftmax, config::Score::kSigmoid}) {
    parameters.all().clear();
    options.score = score;
    options.capacity = 3;
    options.overflow = config::Overflow::kSpare;
    options.spare_experts = kSpares;
    check(make_moe());
    EXPECT_GT(stats.processed(0)[kExperts] + stats.processed(0)[kExperts + 1], 0.0);
    EXPECT_EQ(stats.chosen(0)[kExperts] + stats.chosen(0)[kExperts + 1], 0.0);
  }
}

TEST_F(GradientTest, GateOfTwoLayers) {
  options.task_gate = true;
  options.candidates = 3;
  options.temperature = 0.7;
  tasks = {"code", "prose", "mathematics"};
  check(make_moe());
}

TEST_F(GradientTest, GroupsAndThreshold) {
  sizes.experts = 6;
  sizes.top_k = 3;
  options.score = config::Score::kSigmoid;
  options.groups = 3;
  options.top_groups = 2;
  options.threshold = 0.6;
  check(make_moe());
  const auto choices = stats.choices_by_task(0);
  const double all = std::accumulate(choices.begin(), choices.end(), 0.0);
  EXPECT_EQ(all, kTokens);
  EXPECT_LT(std::accumulate(stats.chosen(0).begin(), stats.chosen(0).end(), 0.0), 3.0 * kTokens);
}

TEST_F(GradientTest, AuxiliaryLossOfSequencesAndOfTheBatchBefore) {
  for (const config::AuxScope scope : {config::AuxScope::kSequence, config::AuxScope::kBatch}) {
    parameters.all().clear();
    options.aux_scope = scope;
    options.aux_loss = 3.0;
    check(make_moe());
  }
}

TEST_F(GradientTest, DenseBlock) {
  check(make_block(Swiglu(parameters, "ffn.", kWidth, 13, 1.0, 1.0, {})));
}

TEST_F(GradientTest, MoeBlock) { check(make_block(make_moe())); }

}  // namespace
}  // namespace moesaic::model
