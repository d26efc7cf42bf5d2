#pragma once

#include <future>
#include <memory>
#include <span>
#include <vector>

#include "infer/tally.h"
#include "record/scores_output.h"

namespace moesaic::infer {

/// The part of one shard on the rank that writes it. What comes is written behind the computation.
/// A job that was stopped amid the shard has kept what it had: the part begins with that, if the
/// batches end there now, too (without cp they may share contexts, and hold more windows).
class ScorePart {
 public:
  ScorePart(const record::ScoresOutput& output, std::int64_t shard,
            const data::ShardDocuments& documents, const std::vector<data::WindowBatch>& batches);
  ~ScorePart();  // removes what was not finished
  ScorePart(const ScorePart&) = delete;
  ScorePart& operator=(const ScorePart&) = delete;

  /// Batches that were there already.
  std::int64_t batches_kept() const { return kept_; }
  /// The targets of these windows, which follow those of the last call.
  void add(const data::WindowBatch& windows, record::TokenScores tokens,
           std::span<const std::uint8_t> is_argmax);
  void finish(std::int64_t trace_step, const record::ReferenceDetails& details);
  /// In place of finish: keeps the first `batches` for the next job.
  void keep(std::int64_t batches, std::int64_t trace_step, const record::ReferenceDetails& details);

 private:
  void go_on(const data::ShardDocuments& documents, const std::vector<data::WindowBatch>& batches);
  bool take_over(const std::filesystem::path& file, const std::vector<data::WindowBatch>& batches);
  void make_writer(const data::ShardDocuments& documents);
  record::ScoreTotals end(const record::ReferenceDetails& details);

  const record::ScoresOutput& output_;
  const std::int64_t shard_;
  std::int64_t kept_ = 0;
  record::ReferenceDetails kept_details_;
  Tally tally_;
  std::unique_ptr<record::ScoresWriter> writer_;  // used on the HDF5 thread alone
  std::future<void> written_;
};

}  // namespace moesaic::infer
