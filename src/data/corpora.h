#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "data/corpus/corpus.h"
#include "data/windows.h"

namespace moesaic::data {

/// The corpora of a job under joint task names, also as one list of shards. What reads runs on the
/// HDF5 thread.
class Corpora {
 public:
  Corpora() = default;
  /// All must have one vocabulary (kBadData).
  static Corpora open(std::vector<CorpusInfo> corpora);

  /// The others, such as those for evaluation, must have this vocabulary too (kBadData).
  void check_vocabulary_of(const Corpora& others) const;

  std::size_t size() const { return corpora_.size(); }
  const CorpusInfo& info(std::size_t corpus) const { return corpora_[corpus].info(); }
  /// Each once: of two with one name the later one is named with its folder.
  std::vector<std::string> names() const;
  std::int64_t tokens() const;  // of all
  std::int64_t vocab_size() const;
  std::string vocab_sha256() const;

  /// Joins the tasks by name: those of `names` keep their numbers, new ones are appended.
  void join_tasks(std::vector<std::string>& names);
  const std::vector<std::string>& tasks() const { return tasks_; }  // [0] = "none"; as joined
  std::uint8_t joint_task(std::size_t corpus, std::uint8_t task) const {
    return task_numbers_[corpus].at(task);
  }

  /// The shards of all corpora, in order.
  struct Shard {
    std::size_t corpus = 0;
    std::int64_t shard = 0;  // of the corpus
    std::int64_t begin = 0;  // its first token in the corpus's stream
  };
  std::int64_t shards() const { return std::ssize(shards_); }
  const Shard& shard(std::int64_t number) const {
    return shards_.at(static_cast<std::size_t>(number));
  }
  const ShardInfo& shard_info(std::int64_t number) const;

  /// Tokens of a corpus's stream; tasks are in its numbers.
  TokenSpan read(std::size_t corpus, std::int64_t begin, std::int64_t count) {
    return corpora_[corpus].read(begin, count);
  }
  /// The documents of a shard with ids and joint tasks.
  ShardDocuments documents(std::int64_t shard);
  /// Without ids, tasks in the corpus's numbers: valid until the next read of this corpus.
  const ShardDocuments& document_table(std::int64_t shard);
  /// [D] whether the context of a document (two tokens or more) is that of the one before it.
  std::vector<std::uint8_t> repeated_contexts(std::int64_t shard, const ShardDocuments& documents);
  /// For each window in turn the tokens that it reads and predicts.
  std::vector<std::int32_t> tokens(std::int64_t shard, const WindowBatch& windows,
                                   const std::vector<std::int64_t>& offsets);

 private:
  std::vector<Corpus> corpora_;
  std::vector<Shard> shards_;
  std::vector<std::string> tasks_;
  std::vector<std::vector<std::uint8_t>> task_numbers_;  // of each corpus: its task -> joint task
};

}  // namespace moesaic::data
