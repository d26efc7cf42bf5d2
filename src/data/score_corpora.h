#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "data/corpus/corpus.h"
#include "data/windows.h"

namespace moesaic::data {

/// The corpora of a scoring job as one list of shards, their tasks joined by name.
class ScoreCorpora {
 public:
  /// tasks: those that the model knows, [0] = "none"; new ones are appended. kBadData unless all
  /// have one vocabulary.
  static ScoreCorpora open(std::vector<CorpusInfo> corpora, const std::vector<std::string>& tasks);

  std::int64_t shards() const { return std::ssize(shards_); }
  const ShardInfo& info(std::int64_t shard) const;
  const CorpusInfo& first() const { return corpora_.front().info(); }
  std::vector<std::string> names() const;
  const std::vector<std::string>& tasks() const { return tasks_; }  // [0] = "none"

  // These run on the HDF5 thread.
  ShardDocuments documents(std::int64_t shard);  // task: index into tasks()
  /// [D] whether the context of a document (two tokens or more) is that of the one before it.
  std::vector<std::uint8_t> repeated_contexts(std::int64_t shard, const ShardDocuments& documents);
  /// For each window in turn the tokens that it reads and predicts.
  std::vector<std::int32_t> tokens(std::int64_t shard, const WindowBatch& windows,
                                   const std::vector<std::int64_t>& offsets);

 private:
  struct Location {
    std::size_t corpus;
    std::int64_t shard;
  };
  void add(Corpus corpus);

  std::vector<Corpus> corpora_;
  std::vector<Location> shards_;
  std::vector<std::string> tasks_;
  std::vector<std::vector<std::uint8_t>> joined_task_;  // [corpus][its own index]
};

}  // namespace moesaic::data
