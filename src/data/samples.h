#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "config/config.h"
#include "data/corpora.h"
#include "data/sample.h"
#include "data/units.h"

namespace moesaic::data {

/// Where a sample is: tokens of a corpus's stream.
struct SampleLocation {
  std::size_t corpus = 0;
  std::int64_t begin = 0, tokens = 0;
  std::int64_t rows = 0;  // that a model reads of them
};

/// What data.samples makes of the corpora: pieces of their streams, or units of whole documents.
/// Each has a group, which is a corpus, or a task of data.task_weights, and a number there.
///
/// Where samples must be looked for in tables of documents, every rank holds counts for each shard
/// and group, and lists the samples of the shards used last (24 bytes for each, about 24 MiB in
/// all): memory does not grow with the documents.
class Samples {
 public:
  Samples() = default;  // of no corpora
  /// Collective over world, whose ranks share out the shards to count. A task that is unknown, or
  /// has weight but no sample, is kUsage. The corpora must outlive it.
  static Samples make(Corpora& corpora, const config::Data& data, const comm::Communicator& world);

  std::vector<std::int64_t> counts() const;  // of each group
  /// Shares of the groups in what is drawn; empty: by their counts.
  const std::vector<double>& weights() const { return weights_; }
  std::int64_t drawable() const;   // of an epoch: all samples but those of weight 0
  std::int64_t mean_rows() const;  // of a sample, at least 1
  std::int64_t most_rows() const { return are_documents() ? most_rows_ : seq_len_; }
  bool are_documents() const { return kind_ == config::Samples::kDocuments; }
  /// What became of the documents of a corpus, and of all; zeros where samples are none.
  const DocumentCounts& documents_of(std::size_t corpus) const { return documents_.at(corpus); }
  DocumentCounts documents() const;
  std::string tasks_text()
      const;  // "code 66.7 % of what is drawn (120 samples), ..."; may be empty

  // These run on the HDF5 thread.
  /// In the order of the corpora.
  SampleLocation at(std::size_t group, std::int64_t number);
  /// A unit gives one sample for each document. Tasks must be joined.
  std::vector<Sample> read(const SampleLocation& location);
  /// Whether anything is to be predicted: not where documents of one token follow each other, or
  /// all is context. Tasks need not be joined yet.
  bool has_target(const SampleLocation& location);

 private:
  struct Place {
    std::int64_t begin, tokens, rows;
  };
  using ByRow = std::vector<std::vector<Place>>;  // one for each row of begin_
  struct Listed {
    std::size_t shard;
    ByRow samples;
    std::size_t count = 0;
  };
  bool by_task() const { return !names_.empty(); }
  bool has_tables() const { return by_task() || are_documents(); }
  std::size_t row_of(std::size_t corpus, std::uint8_t task) const;
  void set_task_weights(const std::vector<config::NamedWeight>& weights);
  void count(const comm::Communicator& world);
  void require_samples() const;
  ByRow list(std::size_t shard, std::vector<DocumentCounts>* counts) const;
  const ByRow& listed(std::size_t shard);

  Corpora* corpora_ = nullptr;
  config::Samples kind_ = config::Samples::kStream;
  config::TooLong too_long_ = config::TooLong::kDrop;
  std::int64_t seq_len_ = 1;
  std::vector<double> weights_;                      // of the groups, or empty
  std::vector<std::string> names_;                   // of data.task_weights
  std::vector<std::vector<std::size_t>> weight_of_;  // [corpora][its tasks]; names_.size(): none
  std::vector<std::size_t> first_shard_;             // [corpora + 1]
  // [rows][shards + 1] samples before each shard; rows: tasks and others, else one.
  std::vector<std::vector<std::int64_t>> begin_;
  std::int64_t rows_ = 0, most_rows_ = 0;  // of all samples, and of one
  std::vector<DocumentCounts> documents_;  // [corpora]
  std::vector<Listed> recent_;             // the one used last is at the back
  std::size_t listed_ = 0;                 // samples in these
};

/// How many samples of seq_len tokens the stream of each corpus has.
std::vector<std::int64_t> stream_samples(const Corpora& corpora, std::int64_t seq_len);

}  // namespace moesaic::data
