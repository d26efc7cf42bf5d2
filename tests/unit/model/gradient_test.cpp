// Every layer's backward against central differences of its forward, in fp32: of a random linear
// functional of the output, plus the auxiliary losses.
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "unit/model/gradient_fixture.h"

namespace moesaic::model {
namespace {

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
  set_latent_queries();
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
