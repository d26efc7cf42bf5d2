// What a config may not say, job by job.
#include "config/validate.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <tuple>

#include "config/compare.h"
#include "unit/config/parse_words.h"

namespace moesaic::config {
namespace {

// Protects the defaults that follow from other keys, above all where results land.
TEST(Validate, ResolvesDerivedDefaults) {
  Config config;
  config.model.d_model = 96;
  config.train.tokens = 8 * 512 * 3 + 1;
  resolve(config, "train");
  EXPECT_EQ(config.model.kv_heads, 4);
  EXPECT_EQ(config.model.head_dim, 24);
  EXPECT_EQ(config.model.d_ff, 384);
  EXPECT_EQ(config.model.expert_d_ff, 96);
  EXPECT_EQ(total_steps(config), 4);
  EXPECT_EQ(config.train.decay_steps, 4);
  EXPECT_EQ(config.score.window, 2048);
  EXPECT_EQ(config.score.stride, 1024);
  EXPECT_EQ(config.trace.path, "trace.h5");
  EXPECT_EQ(config.checkpoint.dir, "");
  for (const auto& [output, trace] :
       {std::pair("out/s.h5", "out/s.trace.h5"), std::pair("out/s/", "out/s.trace.h5"),
        std::pair("out/s", "out/s.trace.h5")}) {
    Config scoring;
    scoring.score.output = output;
    resolve(scoring, "score");
    EXPECT_EQ(scoring.trace.path, trace);
  }
  Config generating;
  generating.run.dir = "out";
  resolve(generating, "generate");
  EXPECT_EQ(generating.generate.output, "out/generations.h5");
  EXPECT_EQ(generating.trace.path, "out/generations.trace.h5");
}

// Protects the length in epochs: whole steps, rounded up but not for a slip of the last bit; the
// first limit counts; the decay follows it, and another length is no other run.
TEST(Validate, LengthInEpochs) {
  Config config;
  config.data.corpus = {"corpus"};
  config.train.warmup = 200;
  config.train.epochs = 1.1;
  config.train.batch = config.train.micro_batch = 1;
  resolve(config, "train");
  EXPECT_EQ(total_steps(config), 0) << "the samples are not counted yet";
  EXPECT_EQ(config.train.decay_steps, 0);
  EXPECT_EQ(join(problems(config, "train", 1), "; "), "");
  const Config before = config;
  set_epoch(config, 10);
  EXPECT_EQ(total_steps(config), 11);
  EXPECT_EQ(config.train.decay_steps, 11);
  EXPECT_TRUE(contains(to_cfg(config), "# decay_steps = 11\n"));
  Config longer = before;
  longer.train.epochs = 3.0;
  set_epoch(longer, 10);
  for (const Difference& row : differences(config, longer)) {
    EXPECT_EQ(row.key, "train.epochs");
    EXPECT_TRUE(may_change_on_resume(row.key));
  }
  for (const auto& [epochs, batch, steps, expected] :
       {std::tuple(0.5, 4, 0, 2), std::tuple(1e-9, 4, 0, 1), std::tuple(2.0, 4, 0, 5),
        std::tuple(2.0, 4, 3, 3), std::tuple(2.0, 4, 9, 5), std::tuple(0.0, 4, 9, 9)}) {
    Config other;
    other.train.epochs = epochs;
    other.train.batch = batch;
    other.train.steps = steps;
    set_epoch(other, 10);
    EXPECT_EQ(total_steps(other), expected) << epochs << " " << steps;
  }
}

// Protects that impossible configs are refused at once, with the numbers and what would do.
TEST(Validate, NamesImpossibleValues) {
  const Strings lines = usage_error({"train",  "--model.d_model",
                                     "250",    "--model.heads",
                                     "6",      "--model.kv_heads",
                                     "4",      "--model.top_k",
                                     "20",     "--model.max_seq",
                                     "256",    "--parallel.ep",
                                     "3",      "--parallel.tp",
                                     "4",      "--router.capacity",
                                     "4",      "--router.capacity_factor",
                                     "1.5",    "--train.batch",
                                     "6",      "--train.micro_batch",
                                     "4",      "--train.min_lr",
                                     "1",      "--run.device",
                                     "cuda",   "--eval.every",
                                     "5",      "--checkpoint.allow",
                                     "data,lr"},
                                    4);
  const std::string text = join(lines, "\n");
  for (const char* const part :
       {"data.corpus is required", "eval.every = 5 needs data.eval_corpus",
        "checkpoint.allow = lr is neither a key nor a section; did you mean train.lr?",
        "command line: model.d_model = 250 is not a multiple of model.heads = 6: use d_model 246",
        "model.kv_heads = 4 does not divide model.heads = 6: use 3 or 6",
        "model.top_k = 20 is more than model.experts = 16: use 1 to 16",
        "router.capacity = 4 and router.capacity_factor = 1.5 are both set",
        "parallel.tp = 4 does not divide model.heads = 6: use tp 3 or 6",
        "parallel.ep = 3 does not divide the number of ranks = 4 / (tp x pp = 4): use 12 ranks, or "
        "ep 1",
        "train.steps, train.tokens or train.epochs is required",
        "train.micro_batch = 4: use batch 4 or 8, or micro_batch 3 or 6",
        "data.seq_len = 512 is more than model.max_seq = 256: set data.seq_len to at most 256, or "
        "model.max_seq to at least 512",
        "train.min_lr = 1 is more than train.lr = 0.0003"}) {
    EXPECT_TRUE(contains(text, part)) << part << "\nis not in\n" << text;
  }
  EXPECT_EQ(lines.size(), 14U) << text;
}

// Protects the router's rules: what would never be used or could not be chosen is refused.
TEST(Validate, JudgesTheRouter) {
  const auto refused = [](auto&& change) {
    Config config;
    config.data.corpus = {"corpus"};
    config.train.steps = 10;
    change(config.router);
    resolve(config, "train");
    return join(problems(config, "train", 1), "; ");
  };
  const auto none = [](Router&) {};
  EXPECT_EQ(refused(none), "");
  EXPECT_TRUE(contains(refused([](Router& r) { r.groups = 5; }),
                       "router.groups = 5 does not divide model.experts = 16: use 4 or 8"));
  EXPECT_TRUE(contains(refused([](Router& r) { r.groups = 16; }),
                       "model.top_k = 2 is more than the 1 experts of router.top_groups = 1"));
  EXPECT_TRUE(contains(refused([](Router& r) { r.candidates = 3; }), "needs router.task_gate = 1"));
  EXPECT_TRUE(contains(refused([](Router& r) {
                         r.task_gate = true;
                         r.candidates = 1;
                       }),
                       "router.candidates = 1 is less than model.top_k = 2"));
  EXPECT_TRUE(contains(refused([](Router& r) { r.spare_experts = 2; }), "would never be used"));
  EXPECT_TRUE(contains(refused([](Router& r) { r.overflow = Overflow::kSpare; }),
                       "needs router.spare_experts"));
}

// Protects who asks for a way between GPUs and computes on none.
TEST(Validate, WayOfTensorsNeedsGpus) {
  Config config;
  config.data.corpus = {"corpus"};
  config.train.steps = 10;
  config.run.collectives = CollectivesBy::kStaged;
  resolve(config, "train");
  EXPECT_TRUE(contains(join(problems(config, "train", 1), "; "),
                       "run.collectives = staged has no effect with run.device = cpu"));
}

// Protects the checks of the other jobs, and that sound configs have no problem.
TEST(Validate, JudgesEachJob) {
  Config config;
  config.data.corpus = {"corpus"};
  config.train.steps = 10;
  config.parallel.ep = 4;
  resolve(config, "train");
  EXPECT_EQ(problems(config, "train", 8), Strings{});
  EXPECT_EQ(problems(config, "tokenize", 1).size(), 2U);
  EXPECT_EQ(problems(config, "score", 8).size(), 2U);  // model.path, score.output
  EXPECT_EQ(problems(config, "plan", 1).size(), 1U);   // plan.ranks = 1 with ep = 4
  config.model.experts = 0;
  config.parallel.ep = 1;
  EXPECT_TRUE(contains(problems(config, "train", 1)[0], "set model.dense_layers = 4"));
  config.model.dense_layers = 4;
  EXPECT_EQ(problems(config, "train", 1), Strings{});
  config.model.path = "checkpoint";
  config.score.output = "scores.h5";
  config.score.shards = "2/2";
  EXPECT_EQ(problems(config, "score", 1).size(), 2U);
  config.score.output = "scores";
  config.score.shards = "1/2";
  EXPECT_EQ(problems(config, "score", 1), Strings{});
  config.generate.output = "g";
  config.generate.top_p = 0.0;
  config.generate.stop = {"", "x"};
  EXPECT_EQ(problems(config, "generate", 1).size(), 4U);  // .h5, top_p, also without effect, stop
  config.generate = {};
  config.generate.output = "g.h5";
  EXPECT_EQ(problems(config, "generate", 1), Strings{});
}

// Protects: ranks that cp does not divide are refused with what would do, and so are jobs without
// it.
TEST(Validate, JudgesContextParallelism) {
  Config config;
  config.data.corpus = {"corpus"};
  config.train.steps = 10;
  config.parallel.tp = 2;
  config.parallel.ep = 2;
  config.parallel.cp = 3;
  resolve(config, "train");
  EXPECT_EQ(problems(config, "train", 12), Strings{});
  EXPECT_EQ(problems(config, "train", 8),
            Strings{"parallel.cp = 3 does not divide the number of ranks = 8 / (tp x pp x ep = 4): "
                    "use 12 ranks, or cp 2"});
  EXPECT_EQ(problems(config, "train", 2),
            Strings{"parallel.ep = 2 does not divide the number of ranks = 2 / (tp x pp = 2): use "
                    "12 ranks, or ep 1"});
  config.parallel = {.ep = 2, .cp = 3};
  resolve(config, "train");
  EXPECT_EQ(problems(config, "train", 4),
            Strings{"parallel.cp = 3 does not divide the number of ranks = 4 / (tp x pp x ep = 2): "
                    "use 6 ranks, or cp 2"});
  config.parallel.ep = 1;
  config.parallel.cp = 2;
  config.model.path = "checkpoint";
  config.score.output = "scores";
  config.generate.output = "g.h5";
  EXPECT_EQ(problems(config, "score", 2), Strings{});
  EXPECT_EQ(problems(config, "experts", 2), Strings{});
  for (const char* const job : {"generate", "convert"}) {
    EXPECT_EQ(problems(config, job, 2),
              Strings{fmt::format("parallel.cp = 2 is for train and score: use 1 for {}, where tp, "
                                  "pp and ep share out the model",
                                  job)});
  }
  config.plan.ranks = 2;
  config.plan.job = "generate";
  EXPECT_EQ(problems(config, "plan", 1).size(), 1U);
  config.plan.job = "score";
  EXPECT_EQ(problems(config, "plan", 1), Strings{});
}

// Protects the example configs in the repository.
TEST(Validate, ExampleConfigsAreSound) {
  const auto configs = std::filesystem::path(MOESAIC_TESTS_DIR) / "../configs";
  const Parsed small = parse_words(
      {"train", "--config", configs / "model/small.cfg", "--config", configs / "train.cfg"});
  EXPECT_NO_THROW(checked(small, 2));
  const Parsed quickstart = parse_words({"train", "--config", configs / "quickstart.cfg",
                                         "--data.corpus", "a", "--data.eval_corpus", "b"});
  EXPECT_NO_THROW(checked(quickstart, 2));
  const Parsed reference =
      parse_words({"train", "--config", configs / "model/reference.cfg", "--train.steps", "10",
                   "--data.corpus", "corpus", "--parallel.ep", "4"});
  EXPECT_EQ(checked(reference, 4).router.capacity, 128);
}

}  // namespace
}  // namespace moesaic::config
