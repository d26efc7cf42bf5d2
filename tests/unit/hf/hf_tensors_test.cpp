// The tensors of a model, as its layers have them, under a family's names.
#include <gtest/gtest.h>

#include <map>

#include "base/error.h"
#include "hf/family.h"
#include "hf/tensors.h"

namespace moesaic::hf {
namespace {

config::Model small() {
  return {.path = "",
          .layers = 2,
          .d_model = 8,
          .heads = 2,
          .kv_heads = 1,
          .head_dim = 4,
          .d_ff = 6,
          .vocab_size = 10,
          .experts = 3,
          .shared_experts = 0,
          .expert_d_ff = 6};
}

std::map<std::string, HfTensor> tensors_of(const Family& family, const config::Model& model,
                                           const config::Router& router) {
  std::map<std::string, HfTensor> tensors;
  for (const HfTensor& tensor : hf_tensors(family, model, router)) {
    tensors[tensor.name] = tensor;
  }
  return tensors;
}

// What training alone has (measured loads, spare experts, deferred gradients) is in no folder.
TEST(HfTensors, ModelAlone) {
  const auto plain = tensors_of(qwen3_moe(), small(), {});
  const config::Router training{.spare_experts = 2,
                                .gradient_buffer = 16,
                                .balance = config::Balance::kAuxLoss,
                                .aux_loss = 0.1,
                                .aux_scope = config::AuxScope::kBatch};
  const auto trained = tensors_of(qwen3_moe(), small(), training);
  EXPECT_EQ(plain.size(), trained.size());
  // A layer has 2 norms, 4 tensors of attention, the gate and 3 of each expert.
  EXPECT_EQ(plain.size(), 2U * (2 + 4 + 1 + 3 * 3) + 3);
  EXPECT_EQ(plain.at("model.layers.1.self_attn.k_proj.weight").shape,
            (std::vector<std::int64_t>{4, 8}));
}

TEST(HfTensors, Renamed) {
  const auto tensors = tensors_of(mixtral(), small(), {});
  EXPECT_EQ(tensors.at("model.layers.0.mlp.experts.2.down_proj.weight").view.tensor,
            "model.layers.0.block_sparse_moe.experts.2.w2.weight");
}

// gpt-oss: up_proj of expert 2 lies in the odd columns of the third matrix of the stack.
TEST(HfTensors, Stacked) {
  const auto tensors = tensors_of(gpt_oss(), small(), {});
  const HfTensor& up = tensors.at("model.layers.1.mlp.experts.2.up_proj.weight");
  EXPECT_TRUE(up.stacked());
  EXPECT_EQ(up.view.tensor, "model.layers.1.mlp.experts.gate_up_proj");
  EXPECT_EQ(up.view.shape, (std::vector<std::int64_t>{3, 8, 12}));
  EXPECT_EQ(up.view.first, 2 * 8 * 12 + 1);
  EXPECT_EQ(up.view.strides, (std::vector<std::int64_t>{2, 12}));
}

// Sizes that 64 bits cannot count are refused before anything is made of them.
TEST(HfTensors, TooLarge) {
  config::Model model = small();
  const auto refused = [&] {
    try {
      hf_tensors(mixtral(), model, {});
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), Exit::kBadData) << error.what();
      return true;
    }
    return false;
  };
  EXPECT_FALSE(refused());
  constexpr std::int64_t kMost = std::int64_t{1} << 24U;
  model.d_model = kMost;
  EXPECT_FALSE(refused());
  model.heads = kMost;
  model.head_dim = 1 << 16;
  model.d_model = kMost;
  EXPECT_TRUE(refused());
  model.heads = model.head_dim = 2;
  model.expert_d_ff = kMost;
  EXPECT_FALSE(refused());
  model.experts = 65536;
  EXPECT_TRUE(refused());
  model = small();
  model.heads = 1;
  model.kv_heads = 1;
  model.head_dim = 1 << 17;  // no tensor is large, but each layer has a frequency for each pair
  EXPECT_TRUE(refused());
}

}  // namespace
}  // namespace moesaic::hf
