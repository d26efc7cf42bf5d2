#pragma once

#include <future>
#include <memory>
#include <span>
#include <vector>

#include "infer/tally.h"
#include "io/scores_output.h"

namespace moesaic::infer {

/// The part of one shard on the rank that writes it. What comes is written behind the computation.
class ScorePart {
 public:
  ScorePart(const io::ScoresOutput& output, std::int64_t shard,
            const io::ShardDocuments& documents);
  ~ScorePart();  // removes what was not finished
  ScorePart(const ScorePart&) = delete;
  ScorePart& operator=(const ScorePart&) = delete;

  /// The targets of these windows, which follow those of the last call.
  void add(const WindowBatch& windows, io::TokenScores tokens,
           std::span<const std::uint8_t> likeliest);
  void finish(std::int64_t trace_step, const io::ReferenceDetails& details);

 private:
  const io::ScoresOutput& output_;
  Tally tally_;
  std::unique_ptr<io::ScoresWriter> writer_;  // used on the HDF5 thread alone
  std::future<void> written_;
};

}  // namespace moesaic::infer
