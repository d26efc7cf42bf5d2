#pragma once

#include <cstdint>
#include <span>

#include "infer/windows.h"
#include "io/corpus.h"
#include "io/scores.h"

namespace moesaic::infer {

/// Adds up the scores of a shard's tokens by document.
class Tally {
 public:
  explicit Tally(const io::ShardDocuments& documents);

  /// The targets of a batch in its order, with 1 where it was the argmax.
  void add(const WindowBatch& windows, const io::TokenScores& tokens,
           std::span<const std::uint8_t> is_argmax);

  /// Goes on from an earlier tally of the same documents.
  void restore(io::DocumentScores documents, io::ReferenceTotals reference);

  const io::DocumentScores& documents() const { return scores_; }
  io::ScoreTotals totals(std::int64_t vocab_size) const;

 private:
  std::vector<std::int64_t> length_, context_, bytes_;
  bool bytes_known_;
  io::ReferenceTotals reference_;
  io::DocumentScores scores_;
};

}  // namespace moesaic::infer
