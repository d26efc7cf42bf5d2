// data.task_weights: shares of the samples by task, alike on any number of ranks.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "base/error.h"
#include "checkpoint/catalog.h"
#include "data/batches.h"
#include "data/corpus/manifest.h"
#include "data/corpus/shard.h"
#include "files/hdf5/thread.h"
#include "support/temp_dir.h"

namespace moesaic::data {
namespace {

using moesaic::testing::TempDir;
using Tasks = std::vector<std::string>;
using Weights = std::vector<config::NamedWeight>;
namespace fs = std::filesystem;

constexpr std::int64_t kLength = 8;  // tokens of a sample

struct Document {
  std::uint8_t task;  // index into the corpus's names
  std::int64_t tokens;
};

// The token at stream position p is p mod 251, so that a sample says where it is from.
void write_corpus(const fs::path& folder, const Tasks& task_names,
                  const std::vector<std::vector<Document>>& shards) {
  fs::create_directories(folder);
  CorpusInfo info;
  info.name = folder.filename();
  info.manifest = folder / (info.name + ".json");
  info.vocab_size = 251;
  info.task_names = task_names;
  std::int32_t position = 0;
  for (std::size_t s = 0; s < shards.size(); ++s) {
    ShardHeader header;
    header.vocab_size = info.vocab_size;
    header.task_names = task_names;
    header.shard_index = static_cast<std::int64_t>(s);
    header.shard_count = std::ssize(shards);
    ShardWriter writer(folder / shard_file_name(info.name, header.shard_index, header.shard_count),
                       header, false);
    for (const Document& document : shards[s]) {
      DocumentRecord record;
      record.task = document.task;
      for (std::int64_t i = 0; i < document.tokens; ++i) {
        record.tokens.push_back(position++ % 251);
      }
      writer.add(record);
    }
    info.shards.push_back(writer.finish());
    info.tokens += info.shards.back().tokens;
    info.documents += info.shards.back().documents;
  }
  write_corpus_manifest(info);
}

// Two corpora whose names of tasks overlap, in a folder of every rank's own.
class TaskSampling : public ::testing::Test {
 protected:
  TaskSampling() {
    files::hdf5_run([&] {
      // By sample: prose, prose, code (5 of 8 tokens), a tie (code is named first), code (of the
      // two tokens in the shard where it begins), none, none.
      write_corpus(dir / "one", {"none", "code", "prose"},
                   {{{2, 19}, {1, 5}, {2, 4}, {1, 6}}, {}, {{2, 6}, {0, 19}}});
      write_corpus(dir / "two", {"none", "prose", "math", "poetry"}, {{{1, 80}, {2, 41}}});
    });
    checkpoint::Catalog catalog;
    corpora = Corpora::open(catalog.corpora({dir / "one", dir / "two"}));
    Tasks names = {"none"};
    corpora.join_tasks(names);
  }

  Samples index(const Weights& weights) {
    config::Data data;
    data.seq_len = kLength;
    data.task_weights = weights;
    return Samples::make(corpora, data, world);
  }

  std::vector<std::pair<std::size_t, std::int64_t>> locations(Samples& tasks, std::size_t weight) {
    return files::hdf5_run([&] {
      std::vector<std::pair<std::size_t, std::int64_t>> all;
      for (std::int64_t k = 0; k < tasks.counts()[weight]; ++k) {
        const SampleLocation location = tasks.at(weight, k);
        all.emplace_back(location.corpus, location.begin / kLength);
      }
      return all;
    });
  }

  std::string refusal(const Weights& weights) {
    try {
      index(weights);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), Exit::kUsage);
      return error.what();
    }
    return "";
  }

  // All samples of steps [first, last) in global order, from batches of two micro-batches.
  std::vector<std::vector<std::int32_t>> drawn(const Weights& weights, int first, int last) {
    config::Config config;
    config.data.seq_len = kLength;
    config.data.task_weights = weights;
    config.train.batch = 8;
    config.train.micro_batch = 2;
    Samples tasks = index(weights);
    Batches batches(tasks, config, world, first * config.train.batch);
    std::vector<std::vector<std::int32_t>> all;
    for (int step = first; step < last; ++step) {
      for (const MicroBatch& mine : batches.next().micro_batches) {
        const std::vector<std::int64_t> sent(mine.token.begin(), mine.token.end());
        const std::vector<std::int64_t> tokens = world.all_gather(std::span(sent));
        for (auto at = tokens.begin(); at != tokens.end(); at += kLength) {
          all.emplace_back(at, at + kLength);
        }
      }
    }
    return all;
  }

  TempDir dir;
  comm::Communicator world = comm::Communicator::world();
  Corpora corpora;
};

// Protects: a sample belongs to the task of most of its tokens; corpora join tasks by name.
TEST_F(TaskSampling, SamplesBelongToTheTaskOfMostTokens) {
  Samples tasks = index({{"prose", 1}, {"code", 2}, {"math", 0}});
  EXPECT_EQ(tasks.counts(), (std::vector<std::int64_t>{12, 3, 5}));
  const auto prose = locations(tasks, 0);
  EXPECT_EQ(prose[0], std::pair(std::size_t{0}, std::int64_t{0}));
  EXPECT_EQ(prose[1], std::pair(std::size_t{0}, std::int64_t{1}));
  for (std::size_t k = 2; k < prose.size(); ++k) {
    EXPECT_EQ(prose[k], std::pair(std::size_t{1}, static_cast<std::int64_t>(k) - 2));
  }
  const std::vector<std::pair<std::size_t, std::int64_t>> code = {{0, 2}, {0, 3}, {0, 4}};
  EXPECT_EQ(locations(tasks, 1), code);
  EXPECT_EQ(locations(tasks, 2).front(), std::pair(std::size_t{1}, std::int64_t{10}));
  EXPECT_NE(tasks.tasks_text().find("2 samples of other tasks"), std::string::npos)
      << tasks.tasks_text();
}

// Protects: a misspelt task is refused with the name that was meant, as is one without samples.
TEST_F(TaskSampling, RefusesWhatItCannotDraw) {
  const std::string unknown = refusal({{"cod", 1}, {"prose", 1}});
  EXPECT_NE(unknown.find("did you mean code?"), std::string::npos) << unknown;
  EXPECT_NE(unknown.find("none, code, prose, math, poetry"), std::string::npos) << unknown;
  const std::string absent = refusal({{"poetry", 1}, {"prose", 1}});
  EXPECT_NE(absent.find("poetry, but no sample"), std::string::npos) << absent;
  EXPECT_EQ(refusal({{"poetry", 0}, {"prose", 1}}), "");
}

// Protects: shares of the drawn samples are the weights; each task shows every sample once before
// it repeats one; a task that is not named, or has weight 0, is never drawn.
TEST_F(TaskSampling, SharesAreTheWeights) {
  Samples tasks = index({{"code", 2}, {"prose", 1}, {"math", 0}});
  SampleOrder order(tasks.counts(), tasks.weights(), 5);
  constexpr std::int64_t kCount = 20000;
  std::map<std::size_t, std::vector<std::int64_t>> seen;
  for (std::int64_t n = 0; n < kCount; ++n) {
    const SampleDraw draw = order.at(n);
    seen[draw.group].push_back(draw.index);
  }
  EXPECT_EQ(seen.size(), 2U);
  const double code = static_cast<double>(seen[0].size()) / kCount;
  EXPECT_NEAR(code, 2.0 / 3.0, 5.0 * std::sqrt(2.0 / 9.0 / kCount));  // of a binomial share
  EXPECT_EQ(seen[0].size(), 13376U);  // of this seed: the order is part of a run's answer
  for (const auto& [weight, indices] : seen) {
    const std::int64_t epoch = tasks.counts()[weight];
    for (std::int64_t begin = 0; begin + epoch <= std::ssize(indices); begin += epoch) {
      const auto first = indices.begin() + begin;
      EXPECT_EQ(std::ssize(std::set<std::int64_t>(first, first + epoch)), epoch);
    }
  }
}

// Protects: the samples of a step are the same on any number of ranks, and after a resume.
TEST_F(TaskSampling, RanksAndResumeDoNotMatter) {
  const Weights weights = {{"math", 3}, {"code", 1}};
  const auto all = drawn(weights, 0, 6);
  Samples tasks = index(weights);
  SampleOrder order(tasks.counts(), tasks.weights(), config::Data().seed);
  ASSERT_EQ(all.size(), 48U);
  for (std::size_t n = 0; n < all.size(); ++n) {
    const SampleDraw draw = order.at(static_cast<std::int64_t>(n));
    const std::vector<Sample> sample =
        files::hdf5_run([&] { return tasks.read(tasks.at(draw.group, draw.index)); });
    EXPECT_EQ(all[n], sample.at(0).token) << n;
  }
  EXPECT_EQ(drawn(weights, 3, 6), (std::vector(all.begin() + 24, all.end())));
}

}  // namespace
}  // namespace moesaic::data
