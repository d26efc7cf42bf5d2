#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "data/corpus/corpus.h"
#include "data/micro_batch.h"
#include "routing/routed_rows.h"

namespace moesaic::data {

/// Where sample i of a corpus is: tokens [i seq_len, (i + 1) seq_len] of its stream.
struct SampleLocation {
  std::size_t corpus = 0;
  std::int64_t index = 0;
};

/// One sample: seq_len tokens of a corpus and what they should predict.
struct Sample {
  std::vector<std::int32_t> token, target;  // [seq_len]; target -1: not counted
  std::vector<std::int32_t> begin;          // [seq_len] where in the sample its document begins
  std::vector<std::uint8_t> task;           // [seq_len] among the joint task names
  std::size_t corpus = 0;
  std::vector<std::int64_t> document, position;  // [seq_len] in the corpus, in the document
};

/// The corpora of a run under joint task names. open() anywhere; read() on the HDF5 thread.
class Corpora {
 public:
  Corpora() = default;
  /// All must have one vocabulary (kBadData).
  static Corpora open(std::vector<CorpusInfo> corpora, std::int64_t seq_len);

  /// The others, such as those for evaluation, must have this vocabulary too (kBadData).
  void check_vocabulary_of(const Corpora& others) const;

  std::size_t size() const { return corpora_.size(); }
  const CorpusInfo& info(std::size_t corpus) const { return corpora_[corpus].info(); }
  /// Each once: of two with one name the later one is named with its folder.
  std::vector<std::string> names() const;
  std::vector<std::int64_t> samples() const;  // of each corpus
  std::int64_t tokens() const;                // of all
  std::int64_t vocab_size() const;
  std::string vocab_sha256() const;

  /// Joins the tasks by name: those of `names` keep their numbers, new ones are appended.
  void join_tasks(std::vector<std::string>& names);

  Sample read(const SampleLocation& location);
  /// Whether anything is to be predicted in a sample: not where documents of one token follow each
  /// other, or all is context. Tasks need not be joined yet. On the HDF5 thread.
  bool has_target(const SampleLocation& location);

  /// One shard of a corpus and the samples that begin in it.
  struct ShardSamples {
    std::size_t corpus = 0;
    std::int64_t shard = 0;
    std::int64_t first = 0, count = 0;  // samples of the corpus
    std::int64_t offset = 0;            // of the first one's first token in the shard
  };
  std::vector<ShardSamples> shard_samples() const;  // of every corpus, in order
  /// The task of each of these samples, in its corpus's numbers: that of most of its tokens (in
  /// this shard), the lower of equals. On the HDF5 thread.
  std::vector<std::uint8_t> sample_tasks(const ShardSamples& samples);

 private:
  std::vector<Corpus> corpora_;
  std::vector<std::vector<std::uint8_t>> task_numbers_;  // of each corpus: its task -> joint task
  std::int64_t seq_len_ = 1;
};

/// Samples laid one after the other.
MicroBatch micro_batch_of(const std::vector<Sample>& samples);
/// Which tokens those are, for the routing record; first: row of the first one.
routing::TokenRows token_rows_of(const std::vector<Sample>& samples, std::int64_t first);

}  // namespace moesaic::data
