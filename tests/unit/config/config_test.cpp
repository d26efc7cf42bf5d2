#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "base/error.h"
#include "base/text.h"
#include "config/compare.h"
#include "config/help.h"
#include "config/keys.h"
#include "config/options.h"
#include "config/validate.h"
#include "support/temp_dir.h"

namespace moesaic::config {
namespace {

using testing::TempDir;
using testing::write_file;
using Strings = std::vector<std::string>;

Parsed parse_words(const Strings& words) {
  std::vector<const char*> argv = {"moesaic"};
  for (const std::string& word : words) {
    argv.push_back(word.c_str());
  }
  return parse(static_cast<int>(argv.size()), argv.data());
}

/// The lines of the usage error that the words end in.
Strings usage_error(const Strings& words, int ranks = 0) {
  try {
    const Parsed parsed = parse_words(words);
    if (ranks > 0) {
      checked(parsed, ranks);
    }
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Exit::kUsage);
    return split(error.what(), '\n');
  }
  ADD_FAILURE() << "no error";
  return {};
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

// Protects the order of precedence, and that a later source replaces a list but not one key of it.
TEST(Options, LaterSourcesWin) {
  const TempDir dir;
  write_file(dir / "a.cfg", "[train]\nsteps = 10\nbatch = 4\nlr = 0.5\n[data]\ncorpus = x, y\n");
  write_file(dir / "b.cfg",
             "train.steps=20\ndata.corpus = p\ndata.corpus = q\n[train]\nlr=0.25 ; c");
  const Parsed parsed = parse_words({"train", "--config", dir / "a.cfg", "--train.lr=0.125",
                                     "--config", dir / "b.cfg", "--model.layers", "7"});
  EXPECT_EQ(parsed.job, "train");
  EXPECT_EQ(parsed.config.train.steps, 20);
  EXPECT_EQ(parsed.config.train.batch, 4);
  EXPECT_EQ(parsed.config.train.lr, 0.125);
  EXPECT_EQ(parsed.config.model.layers, 7);
  EXPECT_EQ(parsed.config.data.corpus, (Strings{"p", "q"}));
  EXPECT_EQ(parsed.config.train.beta2, Train{}.beta2);
  const Parsed lists = parse_words(
      {"train", "--config", dir / "a.cfg", "--data.corpus", "k", "--data.corpus", "l,'m,n'"});
  EXPECT_EQ(lists.config.data.corpus, (Strings{"k", "l", "m,n"}));
}

// Protects comments, quotes, a byte-order mark and Windows line ends in files.
TEST(Options, ReadsIniFiles) {
  const TempDir dir;
  write_file(dir / "a.cfg",
             "\xEF\xBB\xBF# first\r\n; second\r\n[run]\r\n dir = out#1 # why\r\n"
             "max_wall = 3:55:00\r\n[model]\npath=' a # b '\n[tokenize]\ntext_field = it's # x\n"
             "eos = false\n[checkpoint]\nallow = \n");
  const Config config = parse_words({"train", "--config", dir / "a.cfg"}).config;
  EXPECT_EQ(config.run.dir, "out#1");
  EXPECT_EQ(config.run.max_wall, 14100);
  EXPECT_EQ(config.model.path, " a # b ");
  EXPECT_EQ(config.tokenize.text_field, "it's");
  EXPECT_EQ(config.tokenize.eos, Tri::kOff);
  EXPECT_TRUE(config.checkpoint.allow.empty());
}

// Protects stop texts with line breaks, which mean the same in a file and on the command line.
TEST(Options, ReadsLineBreaks) {
  const TempDir dir;
  write_file(dir / "a.cfg", "[generate]\nstop = \"\\n\", \"\\\"#\\n\" # why\n");
  const Strings expected = {"\n", "\"#\n"};
  EXPECT_EQ(parse_words({"generate", "--config", dir / "a.cfg"}).config.generate.stop, expected);
  EXPECT_EQ(parse_words({"generate", "--generate.stop", "\"\\n\", '\"#\n'"}).config.generate.stop,
            expected);
  for (const char* const lost : {"\n", "\r-", "\nUser:"}) {
    EXPECT_TRUE(contains(usage_error({"generate", "--generate.stop", lost})[0],
                         "command line: generate.stop: white space around a value"));
  }
}

// Protects that one run shows every mistake, where it is and what was probably meant.
TEST(Options, ReportsAllProblemsAtOnce) {
  const TempDir dir;
  const std::string file = dir / "bad.cfg";
  write_file(file,
             "[train]\nstepz = 5\nlr = fast\nschedule = cosin\nbatch = 2\nbatch = 3\n"
             "nonsense\n[modle]\nlayers = 3\n[run]\ndir = ${MOESAIC_TEST_UNSET}\n");
  const Strings lines = usage_error({"trian", "--config", file, "--heads", "4", "--config",
                                     "missing.cfg", "--model.top_k", "0", "--train.steps"});
  const std::string text = join(lines, "\n");
  for (const char* const part :
       {"command line: the required argument for option '--train.steps' is missing",
        "unknown job \"trian\", did you mean train?; the jobs are tokenize, train",
        "bad.cfg:2: train.stepz: unknown key; did you mean train.steps?",
        "bad.cfg:3: train.lr: \"fast\" is not a number",
        "bad.cfg:4: train.schedule: \"cosin\" is not one of cosine, linear, constant, wsd; did you",
        "bad.cfg:6: train.batch: is already set at /", "bad.cfg:5",
        "bad.cfg:7: \"nonsense\" is neither [section] nor key = value",
        "bad.cfg:8: unknown section [modle]; did you mean [model]?",
        "bad.cfg:11: run.dir: ${MOESAIC_TEST_UNSET} cannot be expanded",
        "--config missing.cfg: cannot be read: /",
        "command line: heads: unknown key; did you mean model.heads?",
        "command line: model.top_k: 0 is out of range, which is 1 to 100000; the nearest is 1"}) {
    EXPECT_TRUE(contains(text, part)) << part << "\nis not in\n" << text;
  }
  EXPECT_EQ(lines.size(), 13U) << text;  // the 12 problems and where to find help
}

// Protects positional arguments, and that keys have no abbreviations.
TEST(Options, ReadsArguments) {
  const Parsed parsed = parse_words({"verify", "a", "--run.log_level", "debug", "b"});
  EXPECT_EQ(parsed.arguments, (Strings{"a", "b"}));
  EXPECT_EQ(parsed.config.run.log_level, LogLevel::kDebug);
  EXPECT_EQ(usage_error({"verify"}).size(), 2U);
  EXPECT_TRUE(contains(usage_error({"train", "extra"})[0], "takes no argument \"extra\""));
  EXPECT_TRUE(contains(usage_error({"train", "--train.step", "3"})[0], "did you mean train.steps"));
  EXPECT_TRUE(contains(usage_error({})[0], "no job"));
  EXPECT_TRUE(parse_words({"train", "--help"}).help);
  EXPECT_TRUE(parse_words({"--version"}).version);
}

// Protects that the help of the jobs explains every key, and is readable on a terminal.
TEST(Help, MentionsEveryKey) {
  std::string all = help_text("");
  for (const Job& job : jobs()) {
    const std::string text = help_text(job.name);
    for (const Key& key : keys()) {
      EXPECT_EQ(contains(text, "--" + key.name + "  ("), key.read_by(job.name))
          << job.name << " " << key.name;
    }
    all += text;
  }
  for (const Key& key : keys()) {
    EXPECT_TRUE(contains(all, "--" + key.name + "  (")) << key.name;
    EXPECT_FALSE(key.help.empty()) << key.name;
  }
  for (const std::string& line : split(all, '\n')) {
    EXPECT_LE(line.size(), 100U) << line;
  }
}

// Protects who mistypes a job and asks for its help from being told that all is well.
TEST(Help, OfAnUnknownJobIsAnError) {
  const Strings lines = usage_error({"trian", "--help"});
  EXPECT_NE(join(lines, "\n").find("did you mean train?"), std::string::npos);
  EXPECT_TRUE(parse_words({"train", "--help"}).help);
  EXPECT_TRUE(parse_words({"--help"}).help);
}

// Protects configs/README.md from falling behind the table of keys.
TEST(Help, ReadmeIsUpToDate) {
  const std::filesystem::path readme =
      std::filesystem::path(MOESAIC_TESTS_DIR) / "../configs/README.md";
  const std::string expected = keys_markdown();
  if (testing::read_file(readme) != expected) {
    const TempDir dir;
    const auto fresh = std::filesystem::temp_directory_path() / "moesaic-configs-README.md";
    write_file(fresh, expected);
    FAIL() << readme << " differs from the keys: copy " << fresh << " over it";
  }
}

// Protects the round trip of a written config, whatever the values are.
TEST(Compare, WrittenConfigReadsBackEqual) {
  const TempDir dir;
  Config config =
      parse_words({"train", "--data.corpus", "'a,b',~/c", "--data.corpus_weights", "0.3,2e-7",
                   "--data.task_weights", "code:2,'a, b:0.1'", "--run.max_wall", "90 min",
                   "--run.progress", "1", "--plan.memory_per_node", "16GiB", "--train.tokens",
                   "4e9", "--model.path", "'its # ${x}'", "--data.skip_samples", "3:5,5:900"})
          .config;
  config.tokenize.id_field = "quote ' and \" # ~";
  config.generate.stop = {"\n",  "\n\nQ:", "\r", "\t",  "\\n",
                          " # ", "'\"\n",  ";",  "a=b", "\xC3\xBC"};
  for (const std::string& run_dir : {std::string(), std::string("runs/a")}) {
    config.run.dir = run_dir;
    resolve(config, "train");
    write_file(dir / "config.cfg", to_cfg(config));
    Config again = parse_words({"train", "--config", dir / "config.cfg"}).config;
    resolve(again, "train");
    EXPECT_EQ(flatten(again), flatten(config));
    EXPECT_EQ(flatten(unflatten(flatten(config))), flatten(config));
    config.trace.path.clear();
  }
}

// Protects that a written config moves with another run.dir, instead of writing into the first.
TEST(Compare, WrittenConfigFollowsRunDir) {
  const TempDir dir;
  Config config = parse_words({"train", "--run.dir", "runs/a", "--train.steps", "10"}).config;
  resolve(config, "train");
  EXPECT_EQ(config.checkpoint.dir, "runs/a/checkpoints");
  write_file(dir / "config.cfg", to_cfg(config));
  Config moved = parse_words({"train", "--config", dir / "config.cfg", "--run.dir", "runs/b",
                              "--train.steps", "20"})
                     .config;
  resolve(moved, "train");
  EXPECT_EQ(moved.checkpoint.dir, "runs/b/checkpoints");
  EXPECT_EQ(moved.trace.path, "runs/b/trace.h5");
  EXPECT_EQ(moved.train.decay_steps, 20);
}

// Protects which keys block a resume: those that change the answer, and nothing else.
TEST(Compare, NamesWhatMayNotChange) {
  Config was;
  was.train.steps = 10;
  Config is = was;
  is.train.steps = 20;
  is.train.lr = 1.0;
  is.parallel.ep = 2;
  resolve(was, "train");
  resolve(is, "train");
  Strings blocking;
  for (const Difference& row : differences(was, is)) {
    if (!may_change_on_resume(row.key)) {
      blocking.push_back(row.key + " " + row.was + " " + row.is);
    }
  }
  EXPECT_EQ(blocking, Strings{"train.lr 0.0003 1"});
  is.train.decay_steps = 15;  // no longer follows the length of the run
  const auto rows = differences(was, is);
  EXPECT_TRUE(std::any_of(rows.begin(), rows.end(), [](const Difference& row) {
    return row.key == "train.decay_steps" && row.was == "10" && row.is == "15";
  }));
  for (const char* const fixed : {"train.micro_batch", "train.batch", "model.layers", "data.seed",
                                  "router.capacity", "data.corpus"}) {
    EXPECT_FALSE(may_change_on_resume(fixed)) << fixed;
  }
  for (const char* const free :
       {"train.tokens", "run.precision", "eval.every", "checkpoint.keep", "trace.every",
        "score.window", "tokenize.shards", "data.skip_samples", "train.spike", "train.rollbacks",
        "run.compare_replicas"}) {
    EXPECT_TRUE(may_change_on_resume(free)) << free;
  }
}

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
        "run.device = cuda is not in this build", "train.steps or train.tokens is required",
        "train.micro_batch = 4: use batch 4 or 8, or micro_batch 3 or 6",
        "data.seq_len = 512 is more than model.max_seq = 256: set data.seq_len to at most 256, or "
        "model.max_seq to at least 512",
        "train.min_lr = 1 is more than train.lr = 0.0003"}) {
    EXPECT_TRUE(contains(text, part)) << part << "\nis not in\n" << text;
  }
  EXPECT_EQ(lines.size(), 15U) << text;
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
