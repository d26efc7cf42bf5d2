#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "config/config.h"
#include "data/corpora.h"

namespace moesaic::data {

/// Where the samples of each task are that data.task_weights names, over all corpora. Holds counts
/// for each shard and task, and lists the samples of the few shards used last: memory does not grow
/// with the documents (48 + 8 tasks bytes a shard; a list has 8 bytes for each sample of a shard).
class TaskIndex {
 public:
  TaskIndex() = default;  // no weights: samples are not told apart by task

  /// Collective over world, whose ranks share out the shards to count. A task that is unknown, or
  /// has weight but no sample, is kUsage. The corpora must outlive it.
  static TaskIndex make(Corpora& corpora, const std::vector<config::NamedWeight>& weights,
                        const comm::Communicator& world);

  bool empty() const { return weights_.empty(); }
  const std::vector<double>& weights() const { return weights_; }
  std::vector<std::int64_t> samples() const;  // of each weight's task
  std::string text() const;                   // "code 120 (66.7 %), ..."
  /// Sample k of weight w's task, in the order of the corpora. On the HDF5 thread.
  SampleLocation at(std::size_t w, std::int64_t k);

 private:
  using ByWeight = std::vector<std::vector<std::int64_t>>;
  struct Listed {
    std::size_t shard;
    ByWeight samples;
  };
  ByWeight list(std::size_t shard) const;  // the last list: tasks without a weight
  const ByWeight& listed(std::size_t shard);
  void set_weights(const std::vector<config::NamedWeight>& weights);
  void require_samples() const;

  Corpora* corpora_ = nullptr;
  std::vector<std::string> names_;                   // [weights]
  std::vector<double> weights_;                      // [weights]
  std::vector<std::vector<std::size_t>> weight_of_;  // [corpora][its tasks]; weights_.size(): none
  std::vector<Corpora::ShardSamples> shards_;
  ByWeight begin_;              // [weights + 1][shards + 1] samples before each shard
  std::vector<Listed> recent_;  // the one used last is at the back
};

}  // namespace moesaic::data
