#pragma once

#include <cstdint>
#include <vector>

#include "comm/communicator.h"
#include "config/config.h"
#include "data/prefetch.h"
#include "data/sample_order.h"
#include "data/samples.h"

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
/// i mod (dp x ep). A step takes the next train.batch samples that are not skipped. Pieces of a
/// stream fill micro-batches in their order, units as they are dealt. The next step is read while
/// this one computes.
class Batches {
 public:
  /// cursor: the first sample of the first step. The samples must outlive it.
  Batches(Samples& samples, const config::Config& config, const comm::Communicator& replicas,
          std::int64_t cursor);

  StepBatches next();
  /// The first sample that no step has used yet.
  std::int64_t cursor() const { return cursor_; }

 private:
  // A micro-batch of a step: its samples (of this replica's alone), and its first row.
  struct Part {
    std::vector<SampleLocation> samples;
    std::int64_t first_row = 0;
  };
  // These run on the HDF5 thread.
  StepBatches read(const SampleRanges& ranges);
  std::vector<Part> parts_of_stream(const std::vector<std::int64_t>& numbers);
  std::vector<Part> parts_of_units(const std::vector<std::int64_t>& numbers);
  SampleLocation location_of(std::int64_t number);
  void prefetch();

  Samples& samples_;
  SampleOrder order_;
  const SampleRanges skipped_;
  std::int64_t batch_, micro_batch_, seq_len_, cursor_;
  bool keep_tokens_;
  int replica_, replicas_;
  Prefetch<StepBatches> ready_;
};

}  // namespace moesaic::data
