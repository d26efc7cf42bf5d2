// The job `tokenize` of documents with targets: which tokens are targets, what marks them, which
// stay together, and what has no targets.
#include <gtest/gtest.h>

#include <map>

#include "cli/jobs.h"
#include "data/corpus/corpus.h"
#include "files/hdf5/thread.h"
#include "mpi/data/tokenize_inputs.h"

namespace moesaic::data {
namespace {

// Conversations, ids with labels, prompts, pairs and text in one corpus: all have spans.
TEST(Tokenize, ReadsTargets) {
  const Inputs dir;
  dir.write({{"c.jsonl",
              "{\"text\": \"ask:tell\", \"spans\": [[4, 8]], \"group\": \"a\"}\n"
              "{\"text\": \"xy\", \"spans\": [], \"group\": \"a\", \"weight\": 2}\n"
              "{\"input_ids\": [65, 66, 256], \"labels\": [-100, 66, 256], \"group\": \"b\"}\n"
              "{\"context\": \"q\", \"continuation\": \"a\"}\n"
              "{\"prompt\": \"go\"}\n"
              "{\"text\": \"zz\"}\n"}});
  config::Config config = config_for(dir, "c.jsonl", "corpus");
  config.tokenize.shards = 1;
  EXPECT_EQ(cli::tokenize(config, dir.world), 0);
  Corpus corpus = Corpus::open(dir / "corpus");
  EXPECT_TRUE(corpus.info().spans);
  EXPECT_EQ(corpus.info().version, 2);
  const ShardDocuments table = files::hdf5_run([&] { return corpus.documents(0); });
  EXPECT_EQ(table.offsets, (std::vector<std::int64_t>{0, 8, 10, 13, 15, 17, 20}));
  EXPECT_EQ(table.spans.offsets, (std::vector<std::int64_t>{0, 1, 1, 2, 3, 3, 4}));
  EXPECT_EQ(table.spans.ranges, (std::vector<TokenRange>{{4, 8}, {1, 3}, {1, 2}, {0, 3}}));
  EXPECT_EQ(table.context, (std::vector<std::int64_t>{4, 2, 1, 1, 2, 0}));
  EXPECT_EQ(table.group, (std::vector<std::int64_t>{1, 1, 2, 0, 0, 0}));
  EXPECT_EQ(table.weight, (std::vector<float>{1, 2, 1, 1, 1, 1}));
  EXPECT_EQ(table.bytes, (std::vector<std::int64_t>{8, 2, 2, 2, 2, 2}));
  EXPECT_TRUE(verify_corpus(dir / "corpus").empty());
}

// bos and eos come to rendered documents only where they are asked for, and never twice.
TEST(Tokenize, MarksRenderedDocumentsOnce) {
  const Inputs dir;
  dir.write({{"c.jsonl",
              "{\"text\": \"ab\", \"spans\": [[1, 2]]}\n"
              "{\"text\": \"cd\", \"spans\": [[0, 1]]}\n"
              "{\"input_ids\": [257, 65, 256], \"labels\": [-100, 65, -100]}\n"
              "{\"prompt\": \"go\"}\n"}});
  config::Config config = config_for(dir, "c.jsonl", "corpus");
  config.tokenize.shards = 1;
  config.tokenize.bos = config.tokenize.eos = config::Tri::kOn;
  EXPECT_EQ(cli::tokenize(config, dir.world), 0);
  Corpus corpus = Corpus::open(dir / "corpus");
  const ShardDocuments table = files::hdf5_run([&] { return corpus.documents(0); });
  const TokenSpan span = files::hdf5_run([&] { return corpus.read(0, corpus.info().tokens); });
  EXPECT_EQ(span.token, (std::vector<std::int32_t>{257, 'a', 'b', 256, 257, 'c', 'd', 256, 257, 65,
                                                   256, 257, 'g', 'o'}));
  EXPECT_EQ(table.spans.ranges, (std::vector<TokenRange>{{2, 4}, {1, 2}, {1, 2}}));
}

// Neighbours of one group are in one shard and in one corpus, and go together where they were there
// before; the corpus is the same on any number of ranks.
TEST(Tokenize, KeepsGroupsTogether) {
  const Inputs dir;
  std::string lines;
  for (int group = 0; group < 60; ++group) {
    const std::string same = std::to_string(group % 20 == 19 ? 0 : group);
    for (int i = 0; i < 1 + group % 3; ++i) {
      lines += R"({"text": "q)" + same + R"( answer )" + std::to_string(i) +
               R"(", "spans": [[3, 8]], "group": )" + std::to_string(group) + "}\n";
    }
  }
  dir.write({{"c.jsonl", lines}});
  config::Config config = config_for(dir, "c.jsonl", "corpus");
  config.tokenize.shards = 3;
  config.tokenize.holdout = 0.2;
  EXPECT_EQ(cli::tokenize(config, dir.world), 0);
  std::size_t documents = 0, groups = 0;
  for (const char* const part : {"corpus/train", "corpus/heldout"}) {
    Corpus corpus = Corpus::open(dir / part);
    for (std::int64_t s = 0; s < std::ssize(corpus.info().shards); ++s) {
      const ShardDocuments table = files::hdf5_run([&] { return corpus.documents(s); });
      std::map<std::int64_t, std::vector<std::string>> members;
      for (std::size_t d = 0; d < table.id.size(); ++d) {
        members[table.group.at(d)].push_back(table.id[d]);
        ++documents;
      }
      groups += members.size();
      for (const auto& [number, ids] : members) {
        const int line = std::stoi(ids[0].substr(ids[0].rfind(':') + 1)) - 1;
        const int group = line / 6 * 3 + (line % 6 == 0 ? 0 : line % 6 < 3 ? 1 : 2);
        EXPECT_EQ(std::ssize(ids), 1 + group % 3) << ids[0];
        EXPECT_GT(number, 0);
      }
    }
  }
  // Group 19 has two documents where group 0 has one; 39 has one and goes; 59 has three.
  EXPECT_EQ(groups, 59U);
  EXPECT_EQ(documents, 119U);
}

TEST(Tokenize, RefusesWhatHasNoTargets) {
  const Inputs dir;
  dir.write({{"none.jsonl", "{\"text\": \"ab\", \"spans\": []}\n{\"prompt\": \"p\"}\n"},
             {"first.jsonl", "{\"text\": \"ab\", \"spans\": [[0, 1]]}\n"},
             {"ids.jsonl", "{\"input_ids\": [1, 257], \"labels\": [1, 257]}\n"},
             {"prompts.jsonl", "{\"prompt\": \"ab\"}\n{\"prompt\": \"ab\"}\n"}});
  const auto run = [&](const std::string& input, const std::string& tokenizer = "byte") {
    config::Config config = config_for(dir, input, "out_" + input);
    config.tokenize.tokenizer = tokenizer;
    cli::tokenize(config, dir.world);
  };
  expect_failure([&] { run("none.jsonl"); }, Exit::kBadData,
                 {"none of the 2 documents", "none.jsonl", "has a target", "render_chat.py"});
  EXPECT_FALSE(fs::exists(dir / "out_none.jsonl"));
  expect_failure([&] { run("first.jsonl"); }, Exit::kBadData, {"none of the 1 documents"});
  EXPECT_TRUE(files_below(dir / "out_first.jsonl").empty());
  expect_failure(
      [&] { run("ids.jsonl"); }, Exit::kBadData,
      {"ids.jsonl:1", "position 1", "id 257", "vocabulary of 257", "tokenize.tokenizer"});
  expect_failure([&] { run("ids.jsonl", "train"); }, Exit::kUsage,
                 {"ids.jsonl:1", "input_ids", "tokenize.tokenizer = train"});
  run("prompts.jsonl");  // they are for generate, and equal ones stay
  EXPECT_EQ(Corpus::open(dir / "out_prompts.jsonl").info().documents, 2);
}

}  // namespace
}  // namespace moesaic::data
