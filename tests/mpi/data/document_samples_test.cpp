// data.samples = documents: the same units in the same micro-batches on any number of ranks, as a
// plain list of all documents says.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <set>

#include "base/error.h"
#include "checkpoint/catalog.h"
#include "data/batches.h"
#include "data/corpus/manifest.h"
#include "data/corpus/shard.h"
#include "files/hdf5/thread.h"
#include "support/temp_dir.h"
#include "tensor/rng.h"

namespace moesaic::data {
namespace {

using moesaic::testing::TempDir;
namespace fs = std::filesystem;

constexpr std::int64_t kLength = 9;  // data.seq_len

using Shards = std::vector<std::vector<DocumentRecord>>;

void write_corpus(const fs::path& folder, const Shards& shards) {
  fs::create_directories(folder);
  CorpusInfo info;
  info.name = folder.filename();
  info.manifest = folder / (info.name + ".json");
  info.vocab_size = 251;
  info.task_names = {"none", "code", "prose"};
  info.spans = true;
  for (std::size_t s = 0; s < shards.size(); ++s) {
    ShardHeader header;
    header.vocab_size = info.vocab_size;
    header.task_names = info.task_names;
    header.shard_index = static_cast<std::int64_t>(s);
    header.shard_count = std::ssize(shards);
    header.spans = true;
    ShardWriter writer(folder / shard_file_name(info.name, header.shard_index, header.shard_count),
                       header, false);
    for (const DocumentRecord& document : shards[s]) {
      writer.add(document);
    }
    info.shards.push_back(writer.finish());
    info.tokens += info.shards.back().tokens;
    info.documents += info.shards.back().documents;
    info.version = std::max(info.version, info.shards.back().version);
  }
  write_corpus_manifest(info);
}

// Documents of up to 12 tokens, alone and in groups of up to three; one span each, or none.
Shards random_shards(std::uint64_t seed, const std::vector<int>& sizes) {
  const Rng rng(seed, 1);
  std::uint64_t drawn = 0;
  const auto draw = [&](std::int64_t below) {
    return static_cast<std::int64_t>(rng.uniform(drawn++) * static_cast<double>(below));
  };
  Shards shards;
  std::int64_t group = 1;
  for (const int size : sizes) {
    std::vector<DocumentRecord>& shard = shards.emplace_back();
    while (std::ssize(shard) < size) {
      DocumentRecord record;
      const std::int64_t tokens = draw(13);
      for (std::int64_t i = 0; i < tokens; ++i) {
        record.tokens.push_back(static_cast<std::int32_t>(draw(251)));
      }
      const std::int64_t begin = tokens > 0 ? draw(tokens) : 0;
      record.spans = draw(6) == 0 || tokens == 0
                         ? std::vector<TokenRange>()
                         : std::vector<TokenRange>{{begin, begin + 1 + draw(tokens - begin)}};
      record.task = static_cast<std::uint8_t>(draw(3));
      record.weight = draw(4) == 0 ? 2.5F : 1.0F;
      group += draw(2);
      record.group = draw(3) == 0 ? 0 : group;
      shard.push_back(record);
    }
  }
  return shards;
}

// One document as the model reads it.
struct Rows {
  std::vector<std::int32_t> token, target;
  float weight = 1.0F;
};
struct NaiveUnit {
  std::size_t corpus = 0;
  std::uint8_t task = 0;
  std::vector<Rows> documents;

  std::int64_t rows() const {
    return std::accumulate(
        documents.begin(), documents.end(), std::int64_t{0},
        [](std::int64_t sum, const Rows& d) { return sum + std::ssize(d.token); });
  }
};

std::vector<NaiveUnit> naive_units(const std::vector<Shards>& corpora, bool cut) {
  std::vector<NaiveUnit> units;
  for (std::size_t c = 0; c < corpora.size(); ++c) {
    for (const std::vector<DocumentRecord>& shard : corpora[c]) {
      for (std::size_t d = 0; d < shard.size();) {
        NaiveUnit unit{.corpus = c, .task = shard[d].task, .documents = {}};
        bool good = true;
        const std::int64_t group = shard[d].group;
        do {
          const DocumentRecord& document = shard[d++];
          const auto most = static_cast<std::size_t>(kLength + 1);
          good = good && (cut || document.tokens.size() <= most);
          Rows rows{.token = {}, .target = {}, .weight = document.weight};
          bool any = false;
          for (std::size_t i = 0; i + 1 < std::min(most, document.tokens.size()); ++i) {
            const auto next = static_cast<std::int64_t>(i) + 1;
            const bool counted = contains(*document.spans, next);
            rows.token.push_back(document.tokens[i]);
            rows.target.push_back(counted ? document.tokens[i + 1] : -1);
            any = any || counted;
          }
          good = good && any;
          unit.documents.push_back(rows);
        } while (group != 0 && d < shard.size() && shard[d].group == group);
        if (good) {
          units.push_back(unit);
        }
      }
    }
  }
  return units;
}

// What a micro-batch has, as numbers that can be sent and compared.
std::vector<double> numbers_of(const MicroBatch& batch) {
  std::vector<double> all = {static_cast<double>(batch.first), static_cast<double>(batch.size())};
  for (std::size_t t = 0; t < batch.token.size(); ++t) {
    for (const std::int32_t value : {batch.token[t], batch.target[t], batch.position[t],
                                     batch.first_key[t], batch.sample[t]}) {
      all.push_back(value);
    }
    all.push_back(batch.weight.empty() ? 1.0 : static_cast<double>(batch.weight[t]));
  }
  return all;
}

class DocumentSamples : public ::testing::Test {
 protected:
  DocumentSamples() : shards{random_shards(1, {40, 0, 7}), random_shards(2, {25})} {
    files::hdf5_run([&] {
      write_corpus(dir / "one", shards[0]);
      write_corpus(dir / "two", shards[1]);
    });
    checkpoint::Catalog catalog;
    corpora = Corpora::open(catalog.corpora({dir / "one", dir / "two"}));
    std::vector<std::string> names = {"none"};
    corpora.join_tasks(names);
    config.data.samples = config::Samples::kDocuments;
    config.data.seq_len = kLength;
    config.train.batch = 12;
    config.train.micro_batch = 3;
  }

  Samples samples() { return Samples::make(corpora, config.data, world); }

  // The micro-batches of steps [first, last), those of a step in their order.
  std::vector<std::vector<double>> drawn(int first, int last) {
    Samples all = samples();
    Batches batches(all, config, world, first * config.train.batch);
    std::vector<std::vector<double>> found;
    for (int step = first; step < last; ++step) {
      const std::int64_t count = config.train.batch / config.train.micro_batch;
      StepBatches mine = batches.next();
      std::int64_t counted = 0;
      for (std::size_t i = 0; i < mine.micro_batches.size(); ++i) {
        const std::vector<double> sent = numbers_of(mine.micro_batches[i]);
        counted += mine.micro_batches[i].counted();
        const std::vector<double> every = world.all_gather(std::span(sent));
        std::size_t at = 0;
        for (int rank = 0; rank < world.size(); ++rank) {
          const auto length = 2 + 6 * static_cast<std::size_t>(every[at + 1]);
          const auto begin = every.begin() + static_cast<std::ptrdiff_t>(at);
          if (static_cast<std::int64_t>(i) * world.size() + rank < count) {
            found.emplace_back(begin, begin + static_cast<std::ptrdiff_t>(length));
          } else {
            EXPECT_EQ(length, 2U) << "a rank without a micro-batch has an empty one";
          }
          at += length;
        }
      }
      EXPECT_EQ(mine.counted, counted);
    }
    return found;
  }

  // The same from a list of all units: order[n] is draw n.
  std::vector<std::vector<double>> naive(const std::vector<NaiveUnit>& order, int first, int last) {
    std::vector<std::vector<double>> found;
    const auto batch = static_cast<std::size_t>(config.train.batch);
    for (auto step = static_cast<std::size_t>(first); step < static_cast<std::size_t>(last);
         ++step) {
      std::vector<std::int64_t> rows;
      for (std::size_t i = 0; i < batch; ++i) {
        rows.push_back(order[step * batch + i].rows());
      }
      std::int64_t row = 0;
      for (const auto& dealt : deal(rows, config.train.micro_batch)) {
        std::vector<double> numbers = {static_cast<double>(row), 0.0};
        std::int64_t own = 0, number = 0;
        for (const std::size_t i : dealt) {
          for (const Rows& document : order[step * batch + i].documents) {
            const std::int64_t begin = own;
            for (std::size_t t = 0; t < document.token.size(); ++t, ++own) {
              for (const std::int64_t value :
                   {std::int64_t{document.token[t]}, std::int64_t{document.target[t]}, own - begin,
                    begin, number}) {
                numbers.push_back(static_cast<double>(value));
              }
              numbers.push_back(static_cast<double>(document.weight));
            }
            ++number;
          }
        }
        numbers[1] = static_cast<double>(own);
        row += own;
        found.push_back(numbers);
      }
    }
    return found;
  }

  TempDir dir;
  std::vector<Shards> shards;
  comm::Communicator world = comm::Communicator::world();
  Corpora corpora;
  config::Config config;
};

// Protects: units, order and contents against the list, over more than an epoch, with documents
// that are dropped or cut; every unit comes once in each epoch; a resume goes on where it stopped.
TEST_F(DocumentSamples, AreThoseOfThePlainList) {
  for (const auto too_long : {config::TooLong::kDrop, config::TooLong::kEnd}) {
    config.data.truncate = too_long;
    const std::vector<NaiveUnit> units = naive_units(shards, too_long == config::TooLong::kEnd);
    const Samples all = samples();
    ASSERT_EQ(all.drawable(), std::ssize(units));
    EXPECT_EQ(all.counts().size(), 2U);
    EXPECT_EQ(all.documents().documents, 72);
    EXPECT_EQ(all.documents().dropped > 0, too_long == config::TooLong::kDrop);
    EXPECT_EQ(all.documents().cut > 0, too_long == config::TooLong::kEnd);
    EXPECT_GT(all.documents().without_targets, 0);
    SampleOrder order(all.counts(), {}, config.data.seed);
    const std::int64_t first_count = all.counts()[0];
    std::vector<NaiveUnit> drawn_units;
    const int steps = 2 + static_cast<int>(std::ssize(units) / config.train.batch);
    for (std::int64_t n = 0; n < steps * config.train.batch; ++n) {
      const SampleDraw draw = order.at(n);
      const std::int64_t at = draw.index + (draw.group == 0 ? 0 : first_count);
      drawn_units.push_back(units[static_cast<std::size_t>(at)]);
      ASSERT_EQ(drawn_units.back().corpus, draw.group);
    }
    const auto whole = drawn(0, steps);
    EXPECT_EQ(whole, naive(drawn_units, 0, steps));
    const auto per_step = static_cast<std::size_t>(config.train.batch / config.train.micro_batch);
    EXPECT_EQ(drawn(1, 3),
              (std::vector(whole.begin() + static_cast<std::ptrdiff_t>(per_step),
                           whole.begin() + static_cast<std::ptrdiff_t>(3 * per_step))));
  }
}

// Protects: groups stay in one micro-batch, whatever its size.
TEST_F(DocumentSamples, MicroBatchesHaveWholeUnits) {
  const std::int64_t units = samples().drawable();
  for (const std::int64_t each : {1, 2, 6, 12}) {
    config.train.micro_batch = each;
    double rows = 0.0;
    const auto found = drawn(0, 1);
    EXPECT_EQ(std::ssize(found), config.train.batch / each);
    for (const std::vector<double>& batch : found) {
      EXPECT_EQ(batch[0], rows) << "rows of a step follow each other without a gap";
      rows += batch[1];
    }
  }
  EXPECT_GE(units, config.train.batch);
}

// Protects: shares by task count units, by the task of their first document; those of other tasks
// are never drawn.
TEST_F(DocumentSamples, TaskWeights) {
  config.data.truncate = config::TooLong::kEnd;
  config.data.task_weights = {{"prose", 1}, {"code", 2}};
  Samples all = samples();
  std::vector<std::int64_t> counts(3, 0);
  for (const NaiveUnit& unit : naive_units(shards, true)) {
    ++counts[unit.task];
  }
  EXPECT_EQ(all.counts(), (std::vector<std::int64_t>{counts[2], counts[1]}));
  EXPECT_EQ(all.drawable(), counts[1] + counts[2]);
  EXPECT_NE(all.tasks_text().find(fmt::format("{} samples of other tasks", counts[0])),
            std::string::npos)
      << all.tasks_text();
  files::hdf5_run([&] {
    for (std::int64_t k = 0; k < counts[1]; ++k) {
      EXPECT_EQ(all.read(all.at(1, k)).at(0).task.at(0), 1);
    }
  });
}

// Protects: a corpus without a weight is not drawn, and counts for no epoch.
TEST_F(DocumentSamples, CorpusWeights) {
  config.data.corpus_weights = {0, 1};
  const Samples all = samples();
  EXPECT_EQ(all.drawable(), all.counts()[1]);
  SampleOrder order(all.counts(), all.weights(), 1);
  for (std::int64_t n = 0; n < 50; ++n) {
    EXPECT_EQ(order.at(n).group, 1U);
  }
}

}  // namespace
}  // namespace moesaic::data
