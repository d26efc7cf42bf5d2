#pragma once

#include <cstdint>
#include <vector>

#include "comm/communicator.h"
#include "config/config.h"
#include "data/corpora.h"
#include "data/prefetch.h"
#include "data/sample_order.h"
#include "data/task_index.h"

namespace moesaic::data {

/// What this rank computes in one step: as many micro-batches as every other rank, some perhaps
/// empty.
struct StepBatches {
  std::vector<MicroBatch> micro_batches;
  std::int64_t counted = 0;                // targets of this rank
  SampleRanges samples;                    // of all ranks
  std::vector<routing::TokenRows> tokens;  // of this rank, if any step's routing is recorded
};

/// The micro-batches of each step: micro-batch i of the step's global order lies on replica
/// i mod (dp x ep). A step takes the next train.batch samples that are not skipped. The next step
/// is read while this one computes.
class Batches {
 public:
  /// cursor: the first sample of the first step. Corpora and tasks must outlive it.
  Batches(Corpora& corpora, TaskIndex& tasks, const config::Config& config,
          const comm::Communicator& replicas, std::int64_t cursor);

  StepBatches next();
  /// The first sample that no step has used yet.
  std::int64_t cursor() const { return cursor_; }

 private:
  StepBatches read(const SampleRanges& samples);  // on the HDF5 thread
  SampleLocation location_of(std::int64_t sample);
  void prefetch();

  Corpora& corpora_;
  TaskIndex& tasks_;
  SampleOrder order_;
  const SampleRanges skipped_;
  std::int64_t batch_, micro_batch_, seq_len_, cursor_;
  bool keep_tokens_;
  int replica_, replicas_;
  Prefetch<StepBatches> ready_;
};

}  // namespace moesaic::data
