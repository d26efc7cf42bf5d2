// The job `tokenize`: the same corpus on any number of ranks, without duplicates, and with every
// document where the input's order puts it.
#include <gtest/gtest.h>
#include <zlib.h>

#include <algorithm>
#include <map>

#include "cli/jobs.h"
#include "data/corpus/corpus.h"
#include "data/corpus/corpus_tokenizer.h"
#include "files/hdf5/thread.h"
#include "mpi/data/tokenize_inputs.h"
#include "text/tokenizer.h"

namespace moesaic::data {
namespace {

using comm::Communicator;
using moesaic::testing::read_file;

std::string words(int seed, int count) {
  std::string text;
  for (int i = 0; i < count; ++i) {
    text += "word" + std::to_string((seed * 31 + i * i) % 97) + (i % 9 == 8 ? "\n" : " ");
  }
  return text;
}

std::map<std::string, std::string> many_texts() {
  std::map<std::string, std::string> files;
  for (int i = 0; i < 40; ++i) {
    files["text/" + std::to_string(i % 4) + "/f" + std::to_string(i) + ".txt"] =
        words(i, 20 + 13 * i);
  }
  files["text/copy.txt"] = words(7, 20 + 13 * 7);
  std::string lines;
  for (int i = 0; i < 30; ++i) {
    lines += R"({"text": "line )" + std::to_string(i % 25) + R"(", "task": "t)" +
             std::to_string(i % 3) + "\"}\n";
  }
  files["text/lines.jsonl"] = lines;
  return files;
}

// All documents of a corpus: id -> decoded text, in order.
std::vector<std::pair<std::string, std::string>> documents_of(const std::string& path) {
  Corpus corpus = Corpus::open(path);
  const text::Tokenizer tokenizer = tokenizer_of(corpus.info());
  std::vector<std::pair<std::string, std::string>> documents;
  files::hdf5_run([&] {
    for (std::int64_t s = 0; s < std::ssize(corpus.info().shards); ++s) {
      const ShardDocuments table = corpus.documents(s);
      for (std::size_t d = 0; d < table.id.size(); ++d) {
        documents.emplace_back(table.id[d],
                               tokenizer.decode(corpus.shard_tokens(
                                   s, table.offsets[d], table.offsets[d + 1] - table.offsets[d])));
      }
    }
  });
  return documents;
}

// Runs on all ranks into `many`, on rank 0 alone into `one`, and compares every byte.
void expect_same_as_one_rank(const Inputs& dir, config::Config config) {
  config.tokenize.output = dir / "many/corpus";
  EXPECT_EQ(cli::tokenize(config, dir.world), 0);
  if (dir.world.is_root()) {
    config.tokenize.output = dir / "one/corpus";
    EXPECT_EQ(cli::tokenize(config, Communicator()), 0);
    const auto many = files_below(dir / "many");
    const auto one = files_below(dir / "one");
    EXPECT_GE(one.size(), 2U);
    EXPECT_TRUE(many == one);
  }
  dir.world.barrier();
}

// Bytes, held-out shards and all: the number of ranks leaves no trace.
TEST(Tokenize, RanksLeaveNoTrace) {
  const Inputs dir;
  dir.write(many_texts());
  config::Config config = config_for(dir, "text", "");
  config.tokenize.holdout = 0.2;
  config.tokenize.compress = true;
  expect_same_as_one_rank(dir, config);
}

// Nor does it in a vocabulary that is trained on a sample.
TEST(Tokenize, TrainedVocabularyIsTheSame) {
  const Inputs dir;
  dir.write(many_texts());
  config::Config config = config_for(dir, "text", "");
  config.tokenize.tokenizer = "train";
  config.tokenize.vocab_size = 400;
  config.tokenize.shards = 3;
  expect_same_as_one_rank(dir, config);
  if (dir.world.is_root()) {
    const auto documents = documents_of(dir / "many/corpus");
    EXPECT_EQ(documents[0].first, "0/f0.txt");
    EXPECT_EQ(documents[0].second, words(0, 20));
    EXPECT_TRUE(verify_corpus(dir / "many/corpus").empty());
    EXPECT_EQ(Corpus::open(dir / "many/corpus").info().vocab_size, 400);
  }
}

// Nor in one of a Hugging Face folder, whose file then lies beside the corpus with its marks.
TEST(Tokenize, HuggingFaceFolderIsTheSame) {
  const Inputs dir;
  dir.write(many_texts());
  dir.write({{"hf/tokenizer.json",
              read_file(std::string(MOESAIC_GOLDEN_DIR) + "/tokenizers/deepseek_v3.json")},
             {"hf/tokenizer_config.json", R"({"eos_token": "<｜end▁of▁sentence｜>"})"}});
  config::Config config = config_for(dir, "text", "");
  config.tokenize.tokenizer = dir / "hf";
  config.tokenize.shards = 3;
  expect_same_as_one_rank(dir, config);
  if (dir.world.is_root()) {
    EXPECT_EQ(documents_of(dir / "many/corpus")[0].second, words(0, 20));
    EXPECT_TRUE(verify_corpus(dir / "many/corpus").empty());
    const auto info = Corpus::open(dir / "many/corpus").info();
    EXPECT_EQ(info.tokenizer.filename(), "tokenizer.json");
    EXPECT_EQ(info.eos_id, text::Tokenizer::load(dir / "hf").eos_id());
    EXPECT_EQ(info.bos_id, -1);
  }
}

// Documents lie in input order, each once: the first of equal texts stays.
TEST(Tokenize, KeepsOrderAndRemovesDuplicates) {
  const Inputs dir;
  dir.write({{"b.txt", "beta"},
             {"a.txt", "alpha"},
             {"copy.txt", "beta"},
             {"f/x/2.txt", "two\r\n\ttabs"},
             {"f/1.txt", "one"},
             {"f/3.txt", "alpha"},
             {"f/.hidden", "no"},
             {"f/binary", std::string("a\0b", 3)}});
  config::Config config = config_for(dir, "b.txt", "corpus");
  config.tokenize.input = {dir / "b.txt", dir / "a.txt", dir / "copy.txt", dir / "f"};
  EXPECT_EQ(cli::tokenize(config, dir.world), 0);
  using Pairs = std::vector<std::pair<std::string, std::string>>;
  EXPECT_EQ(
      documents_of(dir / "corpus"),
      (Pairs{
          {"b.txt", "beta"}, {"a.txt", "alpha"}, {"1.txt", "one"}, {"x/2.txt", "two\r\n\ttabs"}}));
  const auto info = Corpus::open(dir / "corpus").info();
  EXPECT_EQ(info.tokens, 4 + 5 + 3 + 10 + 4);  // each document ends with eos
  EXPECT_EQ(info.source_bytes, 22);
}

// Equal pairs are questions of their own: tokenize.unique says what is kept, on any ranks.
TEST(Tokenize, KeepsEqualPairs) {
  const std::string pair = "{\"context\": \"ab\", \"continuation\": \"c\"}\n";
  const std::string text = "{\"text\": \"abc\"}\n";
  const std::map<config::Tri, std::vector<std::string>> kept = {
      {config::Tri::kAuto, {"a.jsonl:1", "a.jsonl:2", "b.jsonl:2"}},
      {config::Tri::kOff, {"a.jsonl:1", "a.jsonl:2", "a.jsonl:3", "b.jsonl:1", "b.jsonl:2"}},
      {config::Tri::kOn, {"a.jsonl:1", "a.jsonl:2"}}};
  for (const auto& [unique, expected] : kept) {
    const Inputs dir;
    dir.write({{"t/a.jsonl", pair + text + text}, {"t/b.jsonl", text + pair}});
    config::Config config = config_for(dir, "t", "");
    config.tokenize.unique = unique;
    expect_same_as_one_rank(dir, config);
    std::vector<std::string> ids;
    for (const auto& [id, decoded] : documents_of(dir / "many/corpus")) {
      ids.push_back(id);
    }
    EXPECT_EQ(ids, expected);
  }
}

// What is held out depends on ids alone, not on ranks or the order of the input.
TEST(Tokenize, HoldsOutById) {
  const Inputs dir;
  std::map<std::string, std::string> files;
  for (int i = 0; i < 200; ++i) {
    files[(i % 2 == 0 ? "a/" : "b/") + std::to_string(i)] = words(i, 12) + std::to_string(i);
  }
  dir.write(files);
  config::Config config = config_for(dir, "a", "forth");
  config.tokenize.holdout = 0.25;
  config.tokenize.input = {dir / "a", dir / "b"};
  EXPECT_EQ(cli::tokenize(config, dir.world), 0);
  config.tokenize.output = dir / "back";
  std::swap(config.tokenize.input[0], config.tokenize.input[1]);
  EXPECT_EQ(cli::tokenize(config, dir.world), 0);
  const auto forth = documents_of(dir / "forth/heldout");
  const auto back = documents_of(dir / "back/heldout");
  const std::map<std::string, std::string> one(forth.begin(), forth.end());
  EXPECT_TRUE(one == (std::map<std::string, std::string>(back.begin(), back.end())));
  EXPECT_GT(one.size(), 25U);
  EXPECT_LT(one.size(), 75U);
  EXPECT_EQ(one.size() + documents_of(dir / "forth/train").size(), 200U);
}

// A held-out corpus is never empty, however small the share.
TEST(Tokenize, HoldsOutAtLeastOne) {
  const Inputs dir;
  dir.write({{"t/a", "one"}, {"t/b", "two"}, {"t/c", "three"}});
  config::Config config = config_for(dir, "t", "corpus");
  config.tokenize.holdout = 1e-9;
  EXPECT_EQ(cli::tokenize(config, dir.world), 0);
  EXPECT_EQ(documents_of(dir / "corpus/heldout").size(), 1U);
  EXPECT_EQ(documents_of(dir / "corpus/train").size(), 2U);
}

// Pairs: spaces move to the continuation, an empty context becomes bos or eos, and no eos ends
// them.
TEST(Tokenize, ReadsPairs) {
  const Inputs dir;
  dir.write({{"p.jsonl",
              "{\"context\": \"ab  \", \"continuation\": \"c\", \"id\": 7, \"task\": \"quiz\"}\n"
              "\n"
              "{\"context\": \"\", \"continuation\": \"xy\"}\n"}});
  EXPECT_EQ(cli::tokenize(config_for(dir, "p.jsonl", "corpus"), dir.world), 0);
  Corpus corpus = Corpus::open(dir / "corpus");
  EXPECT_EQ(corpus.info().task_names, (std::vector<std::string>{"none", "quiz"}));
  const TokenSpan span = files::hdf5_run([&] { return corpus.read(0, corpus.info().tokens); });
  EXPECT_EQ(span.token, (std::vector<std::int32_t>{'a', 'b', ' ', ' ', 'c', 256, 'x', 'y'}));
  EXPECT_EQ(span.target, (std::vector<std::uint8_t>{0, 0, 1, 1, 1, 0, 1, 1}));
  EXPECT_EQ(span.task, (std::vector<std::uint8_t>{1, 1, 1, 1, 1, 0, 0, 0}));
  const auto documents = documents_of(dir / "corpus");
  EXPECT_EQ(documents[0].first, "7");
  EXPECT_EQ(documents[1].first, "p.jsonl:3");
}

// tokenize.task names the task of each input; a line's own field goes before it.
TEST(Tokenize, NamesTasks) {
  const Inputs dir;
  dir.write({{"code/a", "int x;"},
             {"prose.jsonl", "{\"text\": \"once\"}\n{\"text\": \"upon\", \"task\": \"aside\"}\n"}});
  config::Config config = config_for(dir, "code", "corpus");
  config.tokenize.input = {dir / "code", dir / "prose.jsonl"};
  config.tokenize.task = {"code", "prose"};
  EXPECT_EQ(cli::tokenize(config, dir.world), 0);
  Corpus corpus = Corpus::open(dir / "corpus");
  EXPECT_EQ(corpus.info().task_names, (std::vector<std::string>{"none", "code", "prose", "aside"}));
  const TokenSpan span = files::hdf5_run([&] { return corpus.read(0, corpus.info().tokens); });
  EXPECT_EQ(span.task[0], 1);
  EXPECT_EQ(span.task[7], 2);
  EXPECT_EQ(span.task[12], 3);
}

// Packed files give what they hold.
TEST(Tokenize, UnpacksGzip) {
  const Inputs dir;
  if (dir.world.is_root()) {
    const gzFile file = gzopen((dir / "t.jsonl.gz").c_str(), "wb");
    for (int i = 0; i < 1000; ++i) {
      gzputs(file, ("{\"text\": \"packed " + std::to_string(i) + "\"}\n").c_str());
    }
    gzclose(file);
  }
  dir.world.barrier();
  config::Config config = config_for(dir, "t.jsonl.gz", "corpus");
  config.tokenize.shards = 3;
  EXPECT_EQ(cli::tokenize(config, dir.world), 0);
  const auto documents = documents_of(dir / "corpus");
  ASSERT_EQ(documents.size(), 1000U);
  EXPECT_EQ(documents[998].second, "packed 998");
  EXPECT_EQ(documents[998].first, "t.jsonl.gz:999");
  EXPECT_EQ(Corpus::open(dir / "corpus").info().shards.size(), 3U);
}

// A bad line ends the job naming its place, or is passed over.
TEST(Tokenize, FindsBadLines) {
  const Inputs dir;
  dir.write(
      {{"t.jsonl", "{\"text\": \"good\"}\n{\"text\": \n{\"other\": 1}\n{\"text\": \"too\"}\n"}});
  config::Config config = config_for(dir, "t.jsonl", "corpus");
  expect_failure([&] { cli::tokenize(config, dir.world); }, Exit::kBadData,
                 {dir / "t.jsonl:2", "on_error=skip"});
  EXPECT_FALSE(fs::exists(dir / "corpus"));
  config.tokenize.on_error = config::OnError::kSkip;
  EXPECT_EQ(cli::tokenize(config, dir.world), 0);
  EXPECT_EQ(documents_of(dir / "corpus").size(), 2U);
}

// Missing input is named by its full path on every rank.
TEST(Tokenize, NamesMissingInput) {
  const Inputs dir;
  expect_failure([&] { cli::tokenize(config_for(dir, "nowhere", "corpus"), dir.world); },
                 Exit::kNoInput, {dir / "nowhere"});
}

// A second run has nothing to do; other settings or other text never overwrite a corpus.
TEST(Tokenize, SecondRunContinues) {
  const Inputs dir;
  dir.write({{"t/a", "one"}, {"t/b", "two"}});
  config::Config config = config_for(dir, "t", "corpus");
  EXPECT_EQ(cli::tokenize(config, dir.world), 0);
  const auto before = files_below(dir / "corpus");
  dir.world.barrier();
  EXPECT_EQ(cli::tokenize(config, dir.world), 0);
  EXPECT_TRUE(files_below(dir / "corpus") == before);
  dir.write({{"t/b", "three"}});
  expect_failure([&] { cli::tokenize(config, dir.world); }, Exit::kCannotCreate,
                 {dir / "corpus", "tokenize.output"});
  dir.write({{"t/b", "two"}});
  config.tokenize.bos = config::Tri::kOn;
  expect_failure([&] { cli::tokenize(config, dir.world); }, Exit::kCannotCreate, {dir / "corpus"});
  config.tokenize.bos = config::Tri::kAuto;
  config.tokenize.unique = config::Tri::kOff;
  expect_failure([&] { cli::tokenize(config, dir.world); }, Exit::kCannotCreate, {dir / "corpus"});
  dir.world.barrier();
  EXPECT_TRUE(files_below(dir / "corpus") == before);
}

}  // namespace
}  // namespace moesaic::data
