#include <gtest/gtest.h>

#include <algorithm>

#include "config/compare.h"
#include "config/help.h"
#include "config/keys.h"
#include "config/options.h"
#include "support/temp_dir.h"
#include "unit/config/parse_words.h"

namespace moesaic::config {
namespace {

using testing::TempDir;
using testing::write_file;
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

}  // namespace
}  // namespace moesaic::config
