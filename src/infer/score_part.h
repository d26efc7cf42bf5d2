#pragma once

#include <future>
#include <memory>
#include <span>
#include <vector>

#include "infer/tally.h"
#include "io/scores_output.h"

namespace moesaic::infer {

/// The part of one shard on the rank that writes it. What comes is written behind the computation.
/// A job that was stopped amid the shard has kept what it had: the part begins with that.
class ScorePart {
 public:
  ScorePart(const io::ScoresOutput& output, std::int64_t shard,
            const io::ShardDocuments& documents);
  ~ScorePart();  // removes what was not finished
  ScorePart(const ScorePart&) = delete;
  ScorePart& operator=(const ScorePart&) = delete;

  /// Batches that were there already.
  std::int64_t batches_kept() const { return kept_; }
  /// The targets of these windows, which follow those of the last call.
  void add(const WindowBatch& windows, io::TokenScores tokens,
           std::span<const std::uint8_t> is_argmax);
  void finish(std::int64_t trace_step, const io::ReferenceDetails& details);
  /// In place of finish: keeps the first `batches` for the next job.
  void keep(std::int64_t batches, std::int64_t trace_step, const io::ReferenceDetails& details);

 private:
  void go_on(const io::ShardDocuments& documents);
  bool take_over(const std::filesystem::path& file);
  void make_writer(const io::ShardDocuments& documents);
  io::ScoreTotals end(const io::ReferenceDetails& details);

  const io::ScoresOutput& output_;
  const std::int64_t shard_;
  std::int64_t kept_ = 0;
  io::ReferenceDetails kept_details_;
  Tally tally_;
  std::unique_ptr<io::ScoresWriter> writer_;  // used on the HDF5 thread alone
  std::future<void> written_;
};

}  // namespace moesaic::infer
