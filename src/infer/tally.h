#pragma once

#include <cstdint>
#include <span>

#include "data/corpus/corpus.h"
#include "data/windows.h"
#include "record/scores.h"

namespace moesaic::infer {

/// Adds up the scores of a shard's tokens by document.
class Tally {
 public:
  explicit Tally(const data::ShardDocuments& documents);

  /// The targets of a batch in its order, with 1 where it was the argmax.
  void add(const data::WindowBatch& windows, const record::TokenScores& tokens,
           std::span<const std::uint8_t> is_argmax);

  /// Goes on from an earlier tally of the same documents.
  void restore(record::DocumentScores documents, record::ReferenceTotals reference);

  const record::DocumentScores& documents() const { return scores_; }
  record::ScoreTotals totals(std::int64_t vocab_size) const;

 private:
  std::vector<std::int64_t> length_, context_, bytes_;
  bool bytes_known_;
  record::ReferenceTotals reference_;
  record::DocumentScores scores_;
};

}  // namespace moesaic::infer
