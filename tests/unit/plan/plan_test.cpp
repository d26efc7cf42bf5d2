#include <gtest/gtest.h>

#include "backend/cpu/kernels/kernels.h"
#include "comm/mesh.h"
#include "config/validate.h"
#include "engine/instance.h"
#include "plan/rank_model.h"
#include "plan/report.h"

namespace moesaic::plan {
namespace {

// Three layers, the first dense; grouped-query attention with heads that do not fill D.
config::Config small_config() {
  config::Config c;
  c.model.layers = 3;
  c.model.dense_layers = 1;
  c.model.d_model = 16;
  c.model.heads = 4;
  c.model.kv_heads = 2;
  c.model.head_dim = 6;
  c.model.d_ff = 40;
  c.model.vocab_size = 50;
  c.model.experts = 8;
  c.model.shared_experts = 2;
  c.model.top_k = 2;
  c.model.expert_d_ff = 10;
  c.data.seq_len = 7;
  c.train.steps = 5;
  c.train.batch = 8;
  c.train.micro_batch = 2;
  c.run.precision = DType::kF32;
  config::resolve(c, "train");
  return c;
}

// Protects the numbers of parameters, against counts by hand.
TEST(ModelSize, CountsByHand) {
  config::Config c = small_config();
  const ModelSize size = model_size(c);
  EXPECT_EQ(size.embedding.total, 800);        // 50 x 16
  EXPECT_EQ(size.head.total, 800);             // 50 x 16
  EXPECT_EQ(size.attention.total, 3456);       // 3 (q 384 + k 192 + v 192 + o 384)
  EXPECT_EQ(size.dense_ff.total, 1920);        // 3 x 16 x 40
  EXPECT_EQ(size.router.total, 272);           // 2 x (8 x 16 + 8 loads)
  EXPECT_EQ(size.experts.total, 7680);         // 2 x 8 x 480
  EXPECT_EQ(size.experts.active, 1920);        // 2 x 2 x 480
  EXPECT_EQ(size.shared_experts.total, 1920);  // 2 x 2 x 480
  EXPECT_EQ(size.norms.total, 112);            // (2 x 3 + 1) x 16
  EXPECT_EQ(size.sum().total, 16960);
  EXPECT_EQ(size.sum().active, 11200);

  c.model.tie_embeddings = true;
  c.router.balance = config::Balance::kBias;
  EXPECT_EQ(model_size(c).sum().total, 16960 - 800 + 16);
}

// Protects: the plan is of the rank with most experts, which loads may make any of them.
TEST(RankModel, FullestRank) {
  config::Config c = small_config();
  const routing::GateState even;
  const routing::GateState loads{
      .pools = {"rrrrr", "rrrrr"},
      .loads = {{9.0F, 1.0F, 1.0F, 1.0F, 1.0F}, {9.0F, 1.0F, 1.0F, 1.0F, 1.0F}}};
  constexpr double kExpert = 480.0;
  // With eight experts on three ranks the last has three, with five on two that without the
  // busiest.
  EXPECT_EQ(held_by(RankModel(c, {.ep = 3}, 0, even)).experts, 2 * 3 * kExpert);
  EXPECT_EQ(held_by(RankModel(c, {.ep = 2}, 0, loads)).experts, 2 * 3 * kExpert);
  const routing::GateState first{
      .pools = {"rrrrr", "rrrrr"},
      .loads = {{1.0F, 9.0F, 1.0F, 1.0F, 1.0F}, {1.0F, 9.0F, 1.0F, 1.0F, 1.0F}}};
  EXPECT_EQ(held_by(RankModel(c, {.ep = 2}, 0, first)).experts, 2 * 3 * kExpert);
}

// Protects: the axis of experts of a trace, which a run keeps that has none in its layers.
TEST(RankModel, ExpertsOfADenseModel) {
  config::Config c = small_config();
  c.model.dense_layers = c.model.layers;
  const RankModel dense(c, {}, 0, {});
  EXPECT_EQ(dense.transformer.experts(), 8);
  EXPECT_TRUE(dense.transformer.expert_pools().empty());
}

// Protects: memory counts the block-aligned columns that a rank of tp keeps.
TEST(Memory, BlocksOfColumnsOverTp) {
  config::Config c = small_config();
  c.plan.job = "score";
  c.model.d_ff = 600;         // in parts of 300: 512 and 344 columns are kept
  c.model.expert_d_ff = 512;  // in block-aligned slices; shared: 1024
  c.parallel.tp = c.parallel.expert_tp = 2;
  const auto copies = [&] { return memory_per_rank(c, Layout::of(c, 2), 0, false).copies; };
  c.run.precision = DType::kBf16;
  const double weights = copies() / 2.0;
  c.run.quantize = DType::kInt8;
  // 16 rows of each: 212 columns of the dense layer, 12 of attention in each of three.
  EXPECT_DOUBLE_EQ(copies(), (weights + 16 * (212 + 3 * 12)) * (1 + 4.0 / 256));
}

// Protects what a quantized checkpoint is said to take: products' weights in so many bytes, the
// rest in four; the same on any ranks.
TEST(Memory, QuantizedCheckpoint) {
  config::Config c = small_config();
  c.plan.job = "score";
  EXPECT_EQ(estimate(c, 1).quantized_bytes, 0.0);
  c.run.quantize = DType::kInt8;
  // Kept: embedding 800, router 272, norms 112. In products: 3456 + 1920 + 7680 + 1920 + 800.
  EXPECT_DOUBLE_EQ(estimate(c, 1).quantized_bytes, 4 * 1184 + 15776 * (1 + 4.0 / 256));
  c.parallel.ep = 4;
  EXPECT_DOUBLE_EQ(estimate(c, 4).quantized_bytes, 4 * 1184 + 15776 * (1 + 4.0 / 256));
  c.run.quantize = DType::kInt4;
  c.model.tie_embeddings = true;  // the table stays as it is, and there is no other
  EXPECT_DOUBLE_EQ(estimate(c, 4).quantized_bytes, 4 * 1184 + 14976 * (0.5 + 2.0 / 32 + 4.0 / 256));
}

// Protects what score.reference takes: the weights and logits of both models, one pass at a time.
TEST(Memory, ReferenceOfScore) {
  config::Config c = small_config();
  c.plan.job = "score";
  const auto memory = [&](std::optional<DType> quantize, const char* reference) {
    c.run.quantize = quantize;
    c.score.reference = reference;
    return estimate(c, 1).memory;
  };
  const Memory few = memory(DType::kInt4, "");
  const Memory whole = memory(std::nullopt, "");
  const Memory both = memory(DType::kInt4, "fp32");
  EXPECT_DOUBLE_EQ(both.weights, few.weights + whole.weights);
  EXPECT_DOUBLE_EQ(both.copies, few.copies + whole.copies);
  EXPECT_DOUBLE_EQ(both.logits, 2 * few.logits);
  EXPECT_DOUBLE_EQ(both.activations, few.activations);
  EXPECT_GT(memory(DType::kInt4, "bf16").copies, few.copies);
}

// Protects the cost of a token: 2 for each weight of a product, attention, three times to train.
TEST(ModelSize, CountsFlop) {
  config::Config c = small_config();
  // Active weights of products: 3456 + 1920 + 256 + 1920 + 1920 + 800. Attention: 4 keys on average
  // x 4 x 3 layers x 24.
  EXPECT_EQ(flop_per_token(c.model, model_size(c), 7).forward, 2 * 10272 + 1152);
  EXPECT_EQ(flop_per_token(c.model, model_size(c), 7).training, 3 * (2 * 10272 + 1152));
  c.model.tie_embeddings = true;  // the same product with the embedding
  EXPECT_EQ(flop_per_token(c.model, model_size(c), 7).forward, 2 * 10272 + 1152);
}

// Protects what a rank holds: its part of the experts, and all of the rest.
TEST(Memory, SharesExpertsOut) {
  config::Config c = small_config();
  const Memory one = memory_per_rank(c, {}, 0, true);
  EXPECT_EQ(one.weights, 4.0 * 16960);
  EXPECT_EQ(one.copies, 0.0);
  const Memory four = memory_per_rank(c, {.ep = 4, .dp = 2}, 0, true);
  EXPECT_EQ(four.weights, 4.0 * (9280 + 1920));
  EXPECT_EQ(four.gradients, four.weights - 4.0 * 16);  // counts of the router have none
  EXPECT_EQ(four.moments, 2.0 * four.gradients);
  EXPECT_EQ(four.logits, 4.0 * 14 * 50);                   // fewer tokens than a block has
  EXPECT_EQ(four.dispatch, 4.0 * 28 * (3 * 16 + 3 * 10));  // 14 tokens x top-2
  // Attention 104 + 38 numbers for a token. Dense: + 120. MoE: + 60 + 34, and 54 for a row.
  EXPECT_EQ(four.activations, 4.0 * (14 * 262 + 2 * (14 * 236 + 28 * 54) + 14 * (7 * 16 + 1)));
  c.run.precision = DType::kBf16;
  EXPECT_EQ(memory_per_rank(c, {.ep = 4, .dp = 2}, 0, true).copies,
            2.0 * (9280 + 1920 - 112 - 272 - 800));  // no norms, router, embedding
  c.router.capacity = 2;                             // 16 slots in place of 28 choices
  EXPECT_EQ(memory_per_rank(c, {.ep = 4, .dp = 2}, 0, true).dispatch, 2.0 * 16 * (3 * 16 + 3 * 10));
  const Memory scoring = memory_per_rank(c, {.ep = 4, .dp = 2}, 0, false);
  EXPECT_EQ(scoring.gradients + scoring.moments, 0.0);
  EXPECT_EQ(sent_rows(c, {}, 14), 16);
  c.plan.job = "score";  // routes without a limit, unless it is asked for
  EXPECT_EQ(sent_rows(c, {}, 14), 28);
  c.router.eval_capacity = true;
  EXPECT_EQ(sent_rows(c, {}, 14), 16);
}

// Protects the sum of the table: what is never there at the same time is not added up, and each
// other class is.
TEST(Memory, SumsWhatIsThereAtTheSameTime) {
  Memory memory;
  memory.weights = 1.0;
  memory.dispatch = 20.0;
  memory.logits = 30.0;
  memory.process.sums = 400.0;
  memory.process.saving = 5000.0;
  EXPECT_EQ(memory.sum(), 5431.0);
  memory.dispatch = 40.0;
  EXPECT_EQ(memory.sum(), 5441.0);
  int shown = 0;
  for (const auto& [name, bytes] : memory.classes()) {
    EXPECT_FALSE(name.empty());
    shown += bytes > 0.0 ? 1 : 0;
  }
  EXPECT_EQ(shown, 4);
}

// Protects what a process takes beside balanced tensors, against counts by hand.
TEST(ProcessMemory, CountsByHand) {
  constexpr double kMib = 1 << 20;
  config::Config c = small_config();
  c.run.threads = 3;
  c.data.corpus = {"a", "b"};
  c.data.eval_corpus = {"c"};
  const TensorBytes tensors{.expert_gradients = 4e5,
                            .other_gradients = 6e5,
                            .largest = 3200.0,
                            .blocks = 75.0,
                            .passing = 1e6,
                            .rows = 1e5};
  const ProcessMemory one = process_memory(c, {}, 0, tensors);
  EXPECT_EQ(one.uneven, 0.0);  // one rank has all rows
  EXPECT_DOUBLE_EQ(one.between, 5e4);
  EXPECT_EQ(one.sums, 0.0);
  // 2 x 7 tokens with a key and a value of 6.
  EXPECT_DOUBLE_EQ(one.threads, 3 * (4.0 * ((1 << 18) + (1 << 16) + (1 << 13)) + 4 * 14 * 12));
  EXPECT_DOUBLE_EQ(one.hdf5, (1 + 0.6 * (1 + 4 * 3)) * kMib);
  EXPECT_EQ(one.batches, 2 * 21 * 4 * 14);  // four micro-batches
  EXPECT_DOUBLE_EQ(one.saving, 4 * kMib + 9 * 1024 * 75 + 3200);

  const ProcessMemory four = process_memory(c, {.ep = 4}, 0, tensors);
  EXPECT_DOUBLE_EQ(four.uneven, 25e3);
  EXPECT_DOUBLE_EQ(four.between, 0.05 * 1.025e6);
  EXPECT_DOUBLE_EQ(four.sums, 6e5);  // nobody else has its experts
  TensorBytes large = tensors;
  large.other_gradients = 9e9;
  const ProcessMemory copies = process_memory(c, {.ep = 2, .dp = 2}, 0, large);
  // Two buckets of others, each with a third of them; the experts, all at once.
  EXPECT_DOUBLE_EQ(copies.sums, 2 * (16 * kMib + 9e9 / 3) + 4e5);

  c.plan.job = "score";
  const ProcessMemory scoring = process_memory(c, {}, 0, tensors);
  EXPECT_EQ(scoring.sums + scoring.saving + scoring.batches, 0.0);
  EXPECT_EQ(scoring.threads, 3 * static_cast<double>(cpu::gemm_scratch(16)));
}

// Protects what the ranks exchange; a group of one exchanges nothing.
TEST(Traffic, CountsByGroup) {
  const config::Config c = small_config();
  const Traffic alone = traffic_per_step(c, {}, 0);
  EXPECT_EQ(alone.sum(), 0.0);
  const Traffic both = traffic_per_step(c, {.ep = 2, .dp = 2}, 0);
  // One micro-batch for each of 4 ranks: 28 rows x 2 layers x 16 numbers, four times, half leave.
  EXPECT_EQ(both[comm::Group::kEp], 4.0 * 28 * 2 * 16 * 4 / 2);
  EXPECT_EQ(both[comm::Group::kDp], 2.0 * 4 * 3840 / 2);
  // Gates 256, of 9280 numbers that are no experts', are summed in their own call; 16 are counts.
  EXPECT_EQ(both[comm::Group::kReplicas], 2.0 * 4 * (9280 - 256 - 16) * 3 / 4);
  EXPECT_EQ(both[comm::Group::kStage], 2.0 * 4 * 256 * 3 / 4);
}

// Two sequences of 160 tokens, five key tiles: of four chunks of 64, 64, 64 and 128 rows the first
// rank of two has the outer ones, the second those between.
config::Config long_config() {
  config::Config c = small_config();
  c.data.seq_len = c.model.max_seq = 160;
  return c;
}

// Protects what the ranks of cp exchange: keys and values, rows of their own, gradients with dp.
TEST(Traffic, OverCp) {
  config::Config c = long_config();
  const Traffic cp = traffic_per_step(c, {.ep = 2, .cp = 2}, 0);
  // Two micro-batches for each of two replicas. 192 rows x top-2 x 2 layers x 16, half leave.
  EXPECT_EQ(cp[comm::Group::kEp], 2 * 4.0 * 384 * 2 * 16 * 4 / 2);
  EXPECT_EQ(cp[comm::Group::kDp], 2.0 * 4 * 3840 / 2);
  EXPECT_EQ(cp[comm::Group::kReplicas], 2.0 * 4 * (9280 - 256 - 16) * 3 / 4);
  EXPECT_EQ(cp[comm::Group::kStage], 2.0 * 4 * 256 * 3 / 4);
  // A row has 2 x (6 + 6) numbers. The second rank sends its 128 rows twice, 64 gradients once.
  // Half of the choices and weights of all rows in two layers come from each of them.
  const double choices = 2 * 320 * 2 * 8 / 2;  // of a micro-batch
  EXPECT_EQ(cp[comm::Group::kCp], 2.0 * (3 * 24 * 4 * (2 * 128 + 64) + choices));
  const Traffic again = traffic_per_step(c, {.ep = 2, .cp = 2, .recompute = true}, 0);
  EXPECT_EQ(again[comm::Group::kCp], 2.0 * (3 * 24 * 4 * (3 * 128 + 64) + 2 * choices));
  c.run.precision = DType::kBf16;  // the first rank sends more: 64 rows twice, 128 gradients
  EXPECT_EQ(traffic_per_step(c, {.cp = 2}, 0)[comm::Group::kCp],
            4.0 * (3 * 24 * (2 * 2 * 64 + 4 * 128) + choices));
  EXPECT_EQ(traffic_per_step(c, {.tp = 2, .cp = 2}, 0)[comm::Group::kCp],
            4.0 * (3 * 12 * (2 * 2 * 64 + 4 * 128) + choices));
  EXPECT_EQ(traffic_per_step(c, {.dp = 2}, 0)[comm::Group::kCp], 0.0);
  c.data.seq_len = 20;  // one tile, which one rank has: nobody else needs its keys
  EXPECT_EQ(traffic_per_step(c, {.cp = 2}, 0)[comm::Group::kCp], 4.0 * choices / 8);
}

// Protects: keys and values of latent attention are those of every query head.
TEST(Traffic, LatentOverCp) {
  config::Config c = long_config();
  c.model.kv_lora_rank = 32;
  c.model.qk_nope_head_dim = 8;
  c.model.qk_rope_head_dim = 4;
  c.model.v_head_dim = 10;
  EXPECT_EQ(traffic_per_step(c, {.cp = 2}, 0)[comm::Group::kCp],
            4.0 * (3 * 4 * (12 + 10) * 4 * (2 * 128 + 64) + 2 * 320 * 2 * 8 / 2));
}

// Protects what a rank of cp holds: its rows, and a share of the state of all that have its
// weights.
TEST(Memory, OverCp) {
  config::Config c = long_config();
  const Memory two = memory_per_rank(c, {.ep = 2, .cp = 2, .zero = true}, 0, true);
  EXPECT_EQ(two.weights, 4.0 * (9280 + 3840));
  EXPECT_EQ(two.moments, 2.0 * 4 * (1920 + 2316));
  EXPECT_EQ(two.logits, 4.0 * 192 * 50);
  EXPECT_EQ(two.dispatch, 4.0 * 384 * (3 * 16 + 3 * 10));
  // The layers as without cp; then two chunks of keys and values, and in fp32 the gradients of
  // queries, keys and values, and of three chunks.
  EXPECT_EQ(two.activations, 4.0 * (192 * 262 + 2 * (192 * 236 + 384 * 54) + 192 * (7 * 16 + 1)) +
                                 4.0 * (2 * 128 * 24 + 192 * (24 + 24) + 3 * 128 * 24));
  c.router.capacity_factor = 0.5;  // 40 slots of each expert for the 640 choices of both ranks
  EXPECT_EQ(sent_rows(c, {.cp = 2}, 320), 320);
  c.router.capacity_factor = 1.0;
  EXPECT_EQ(sent_rows(c, {.cp = 2}, 320), 384);
  c.run.threads = 1;
  const ProcessMemory process =
      process_memory(c, {.cp = 2}, 0, {.expert_gradients = 4e5, .other_gradients = 6e5});
  EXPECT_DOUBLE_EQ(process.sums, 1e6);  // the other rank has the experts as well
  EXPECT_DOUBLE_EQ(process.threads, static_cast<double>(cpu::gemm_scratch(16)) + 4 * 192 * 12);
}

// Protects the plan of generate from differing from what a rank takes: pages, and quantized
// weights.
TEST(Memory, IsWhatARunTakes) {
  for (const bool latent : {false, true}) {
    config::Config c = small_config();
    c.model.d_model = 256;
    c.model.expert_d_ff = 64;
    c.model.d_ff = 128;
    c.model.kv_lora_rank = latent ? 32 : 0;
    c.model.qk_nope_head_dim = latent ? 8 : 0;
    c.model.qk_rope_head_dim = latent ? 4 : 0;
    c.model.v_head_dim = latent ? 12 : 0;
    c.run.precision = DType::kBf16;
    c.run.threads = 1;
    c.plan.job = "generate";
    c.generate.cache = 1e6;
    const comm::Mesh mesh = comm::Mesh::single();
    {
      engine::Instance instance(c, mesh, engine::Use::kManyRows);
      const std::int64_t bytes = 2 * instance.transformer.page_elements();
      EXPECT_EQ(page_bytes(c, {}, 0), static_cast<double>(bytes));
      EXPECT_EQ(cache_pages(c, {}), 1'000'000 / bytes);
      const Memory memory = memory_per_rank(c, {}, 0, false);
      EXPECT_GE(memory.cache, static_cast<double>(1'000'000 / bytes * bytes));
    }
    for (const auto quantize : {DType::kInt8, DType::kInt4}) {
      c.run.quantize = quantize;
      engine::Instance instance(c, mesh, engine::Use::kManyRows);
      instance.parameters.initialise(*instance.backend, 1);
      double kept = 0.0;
      for (const model::Parameter& parameter : instance.parameters.all()) {
        if (parameter.packed.groups > 0) {
          kept += static_cast<double>(parameter.packed.bytes());
        }
      }
      EXPECT_GT(kept, 0.0);
      if (!latent) {  // there W_b stays as it is
        EXPECT_NEAR(memory_per_rank(c, {}, 0, false).copies / kept, 1.0, 0.06);
      }
    }
  }
}

// Protects what is said about the cache: how many sequences fit.
TEST(Report, OfGenerate) {
  config::Config c = small_config();
  c.plan.job = "generate";
  c.model.max_seq = 100;
  c.generate.cache = 100'000;  // a page: 3 layers x 2 heads x 64 tokens x 12 numbers x 4 bytes
  const std::string text = report(estimate(c, 1), c);
  for (const char* const part : {"5 pages of 64 tokens, 18.0 KiB each on a rank (288 B a token)",
                                 "2 sequences of model.max_seq = 100 tokens", "keys and values"}) {
    EXPECT_NE(text.find(part), std::string::npos) << part << "\nis not in\n" << text;
  }
}

// Protects the table that training begins with.
TEST(Report, ShowsTheNumbers) {
  config::Config c = small_config();
  c.parallel.ep = 2;
  c.plan.memory_per_node = 1e8;
  const std::string text = report(estimate(c, 4), c, 560);
  for (const char* const part :
       {"17.0 k parameters, 11.2 k active for one token", "experts", "7.68 k, 1.92 k active",
        "4 ranks: tp=1 pp=1 ep=2 dp=2, fp32", "5 steps of 56 tokens = 280 tokens, 0.50 epochs",
        "fits", "checkpoint", "199 KiB"}) {
    EXPECT_NE(text.find(part), std::string::npos) << part << "\nis not in\n" << text;
  }
  c.parallel.cp = 2;
  EXPECT_NE(report(estimate(c, 4), c).find("4 ranks: tp=1 pp=1 ep=2 cp=2 dp=1, fp32"),
            std::string::npos);
}

}  // namespace
}  // namespace moesaic::plan
