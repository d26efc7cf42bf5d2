#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "config/config.h"
#include "data/corpus/corpus.h"

// Units: what data.samples = documents draws. Pure functions.
namespace moesaic::data {

/// A document, or the neighbours of one group, which stay together.
struct Unit {
  std::int64_t begin = 0, tokens = 0;  // of the shard; without what is cut off at the end
  std::int64_t rows = 0;               // that the model reads: a document's last token is not
  std::uint8_t task = 0;               // of the first document, in the corpus's numbers
};

/// What became of documents. One that is left out with its group counts for the same reason.
struct DocumentCounts {
  std::int64_t documents = 0, dropped = 0, cut = 0, without_targets = 0;

  void add(const DocumentCounts& other);
  /// "1200 (3 longer than data.seq_len: dropped, 17 without targets: skipped)"
  std::string text() const;
};

struct ShardUnits {
  std::vector<Unit> units;
  DocumentCounts counts;
};

/// The units of a shard, in order. A document with more than seq_len + 1 tokens is dropped with its
/// group, or cut; so is one that then has no target.
ShardUnits units_of(const ShardDocuments& documents, std::int64_t seq_len,
                    config::TooLong too_long);

/// Which units each micro-batch of a step has, `each` of them: the longest first, to the
/// micro-batch that has fewest rows and has room. Micro-batches with most rows come first. Ties go
/// by order. rows: of the step's units, a multiple of `each`.
std::vector<std::vector<std::size_t>> deal(std::span<const std::int64_t> rows, std::int64_t each);

}  // namespace moesaic::data
