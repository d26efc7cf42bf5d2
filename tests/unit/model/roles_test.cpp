// Which tensors are trained: patterns of names, what they mean for rows, and what is refused.
#include "model/parameter/roles.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "config/validate.h"
#include "model/parameter/parameters.h"
#include "model/trainable.h"

namespace moesaic::model {
namespace {

config::Config config_of(std::vector<std::string> trainable) {
  config::Config c;
  c.model = {.path = {},
             .layers = 4,
             .d_model = 16,
             .heads = 2,
             .d_ff = 8,
             .vocab_size = 11,
             .dense_layers = 1,
             .experts = 3,
             .shared_experts = 1,
             .expert_d_ff = 4};
  c.router.balance = config::Balance::kBias;
  c.train.steps = 1;
  c.train.trainable = std::move(trainable);
  config::resolve(c, "train");
  return c;
}

Roles roles_for(std::vector<std::string> trainable) {
  return tuning_of(config_of(std::move(trainable)), {}).roles;
}

std::string refusal(std::vector<std::string> trainable) {
  try {
    roles_for(std::move(trainable));
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Exit::kUsage);
    return error.what();
  }
  return "";
}

constexpr const char* kQuery = "model.layers.2.self_attn.q_proj.weight";
constexpr const char* kExpert = "model.layers.1.mlp.experts.2.up_proj.weight";
constexpr const char* kGate = "model.layers.3.mlp.gate.weight";

TEST(Roles, WordsAndGlobs) {
  const Roles all = roles_for({});
  EXPECT_TRUE(all.trains(kQuery) && all.trains(kExpert) && !all.freezes());
  EXPECT_EQ(all.lowest_part(), 0);

  const Roles last = roles_for({"last:2"});
  EXPECT_TRUE(last.trains(kQuery) && last.trains(kGate) && !last.trains(kExpert));
  EXPECT_FALSE(last.trains("lm_head.weight"));
  EXPECT_EQ(last.lowest_part(), 3);  // the third of four blocks

  const Roles head = roles_for({"head"});
  EXPECT_TRUE(head.trains("lm_head.weight") && !head.trains("model.norm.weight"));
  EXPECT_EQ(head.lowest_part(), 6);
  EXPECT_EQ(roles_for({"model.norm.weight"}).lowest_part(), 5);

  const Roles router = roles_for({"router"});
  EXPECT_TRUE(router.trains(kGate) && !router.trains("model.layers.0.mlp.gate_proj.weight"));
  EXPECT_EQ(router.lowest_part(), 2);

  const Roles most = roles_for({"!*.experts.2.*", "!model.embed_tokens.weight"});
  EXPECT_TRUE(most.trains(kQuery) && most.freezes());
  EXPECT_FALSE(most.trains(kExpert) || most.trains("model.embed_tokens.weight"));
  EXPECT_EQ(most.lowest_part(), 1);

  // The order of patterns says nothing: what is excluded stays so.
  EXPECT_FALSE(roles_for({"!*.q_proj.*", "all"}).trains(kQuery));
}

// A tied table is the head, and lies below all blocks.
TEST(Roles, ATiedHeadIsTheTable) {
  config::Config c = config_of({"head"});
  c.model.tie_embeddings = true;
  const Roles roles = tuning_of(c, {}).roles;
  EXPECT_TRUE(roles.trains("model.embed_tokens.weight"));
  EXPECT_EQ(roles.lowest_part(), 0);
}

TEST(Roles, FactorsOfTheLearningRate) {
  config::Config c = config_of({});
  c.train.lr_scale = {{"*.mlp.*", 0.5}, {"router", 0.1}};
  const Roles roles = tuning_of(c, {}).roles;
  EXPECT_EQ(roles.lr_scale(kQuery), 1.0);
  EXPECT_EQ(roles.lr_scale(kExpert), 0.5);
  EXPECT_EQ(roles.lr_scale(kGate), 0.1);
}

// Protects: a pattern that is spelled wrongly does not quietly train nothing.
TEST(Roles, WhatMatchesNothingIsRefused) {
  EXPECT_EQ(refusal({"*.q_porj.weight"}),
            "train.trainable: *.q_porj.weight matches no tensor of this model; the nearest is "
            "model.layers.0.self_attn.q_proj.weight");
  EXPECT_EQ(refusal({"all", "!model.layer.3.*"}).find("train.trainable: model.layer.3.* matches"),
            0U);
  EXPECT_EQ(refusal({"*.gate.load"}),
            "train.trainable: *.gate.load matches only counts of the router, which follow the "
            "gate: name `router`");
  EXPECT_EQ(refusal({"head", "!*"}), "train.trainable = head,!*: nothing is left to train");
  EXPECT_EQ(refusal({"adapter"}).find("train.trainable: adapter matches no tensor"), 0U);
}

// What cannot be a pattern of any model is told with all other problems of a config.
TEST(Roles, PatternsAreChecked) {
  for (const char* const wrong : {"last:0", "last:5", "last:x", "last:", "!"}) {
    const auto problems = config::problems(config_of({wrong}), "train", 1);
    const bool told = std::any_of(problems.begin(), problems.end(), [](const std::string& line) {
      return line.starts_with("train.trainable: '");
    });
    EXPECT_TRUE(told) << wrong;
  }
}

// q, k and v in one parameter, of which q and v are trained.
Parameter& add_product(Parameters& parameters) {
  return parameters.add({.shape = {7, 4},
                         .tensors = {whole_tensor("q", {3, 4}), whole_tensor("k", {2, 4}),
                                     whole_tensor("v", {2, 4})}});
}

TEST(TrainedRows, AreOneAfterTheOther) {
  Roles roles;
  roles.set_trained({{"q", 1, false}, {"v", 1, false}}, {});
  Parameters parameters({.roles = roles, .adapters = {}});
  const Parameter& p = add_product(parameters);
  ASSERT_EQ(p.trained.size(), 2U);
  EXPECT_EQ(p.trained_rows(), 5);
  EXPECT_EQ(p.trained_elements(), 20);
  EXPECT_FALSE(p.is_trained_whole());
  const Slice v = p.trained_in({5, 2});
  EXPECT_EQ(v.begin, 3);
  EXPECT_EQ(v.count, 2);
  EXPECT_EQ(p.trained_in({3, 2}).count, 0);  // k
}

// One rule, one run of rows; another factor divides them.
TEST(TrainedRows, NeighboursOfOneRuleAreOne) {
  Roles roles;
  Parameters parameters({.roles = roles, .adapters = {}});
  EXPECT_EQ(add_product(parameters).trained.size(), 1U);
  roles.set_lr_scales({{NamePattern("k", 1, false), 0.5}});
  Parameters scaled({.roles = roles, .adapters = {}});
  const Parameter& p = add_product(scaled);
  ASSERT_EQ(p.trained.size(), 3U);
  EXPECT_EQ(p.trained[1].lr_scale, 0.5F);
  EXPECT_TRUE(p.is_trained_whole());
}

// Protects ZeRO with frozen rows between trained ones: every trained row has one owner, in whose
// share its gradient lies.
TEST(TrainedRows, OwnersShareThemOut) {
  const auto backend = make_cpu_backend(1);
  Roles roles;
  roles.set_trained({{"q", 1, false}, {"v", 1, false}}, {});
  for (const int ranks : {1, 2, 3, 7}) {
    std::vector<int> updates(5, 0);
    for (int rank = 0; rank < ranks; ++rank) {
      Parameters parameters({.roles = roles, .adapters = {}});
      parameters.add({.shape = {1, 4}, .tensors = {whole_tensor("frozen", {1, 4})}});
      const Parameter& p = add_product(parameters);
      parameters.allocate(*backend, {}, {{SumOver::kReplicas, {rank, ranks}}});
      ASSERT_EQ(parameters.buckets().size(), 1U);
      const Bucket& bucket = parameters.buckets().front();
      EXPECT_EQ(bucket.grad.numel(), 32);
      EXPECT_FALSE(bucket.is_whole());
      EXPECT_FALSE(parameters.all().front().grad.defined());
      std::int64_t begin = 0;
      for (int r = 0; r < rank; ++r) {
        begin += bucket.counts[static_cast<std::size_t>(r)];
      }
      const std::int64_t end = begin + bucket.counts[static_cast<std::size_t>(rank)];
      for (std::int64_t row = p.owned.begin; row < p.owned.end(); ++row) {
        ++updates[static_cast<std::size_t>(row)];
        const std::int64_t at = p.begin + row * 4;
        EXPECT_TRUE(begin <= at && at + 4 <= end) << row;
      }
    }
    EXPECT_EQ(updates, std::vector<int>(5, 1)) << ranks << " owners";
  }
}

}  // namespace
}  // namespace moesaic::model
