#pragma once

#include <cstdint>
#include <vector>

#include "data/corpora.h"

// Samples that are pieces of a stream, and their tasks.
namespace moesaic::data {

/// How many samples of seq_len tokens a corpus's stream has; each needs one token more.
std::int64_t stream_samples(const CorpusInfo& corpus, std::int64_t seq_len);

/// The samples that begin in a shard.
struct StreamSamples {
  std::int64_t first = 0, count = 0;  // of the corpus
};
StreamSamples stream_samples_of(const Corpora& corpora, std::int64_t shard, std::int64_t seq_len);

/// The task of each of them, in its corpus's numbers: that of most of its tokens (in this shard),
/// the lower of equals. On the HDF5 thread.
std::vector<std::uint8_t> tasks_of_samples(Corpora& corpora, std::int64_t shard,
                                           const StreamSamples& samples, std::int64_t seq_len);

}  // namespace moesaic::data
