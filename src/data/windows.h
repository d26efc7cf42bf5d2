#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "data/corpus/corpus.h"
#include "data/micro_batch.h"

// How documents are cut into the pieces that the model reads. Pure functions: batches depend on the
// corpus and the keys alone, never on the ranks.
namespace moesaic::data {

struct WindowRules {
  std::int64_t window = 0;  // most tokens that the model reads at once
  std::int64_t stride = 0;  // new tokens of each further window, 1..window
  bool last_only = false;   // truncate = left
  /// Contexts that neighbours have in common are read once; not where a layer has a sliding window.
  bool share = false;
  std::int64_t batch = 0;  // most windows of a batch; 0: as many as fit
};

/// Reads tokens [begin, begin + size) of a document and predicts its targets from first_target on,
/// up to begin + size, which is one. The first `shared` of these are not read again: they are those
/// of another window of its batch.
struct Window {
  std::int64_t document = 0;
  std::int64_t begin = 0, size = 0;
  std::int64_t first_target = 0;
  std::int64_t shared = 0;
  std::size_t leader = 0;        // the number of that window in the batch
  std::int64_t passed_over = 0;  // tokens behind first_target that are no targets

  std::int64_t rows() const { return size - shared; }
  std::int64_t end() const { return begin + size; }
  std::int64_t targets() const { return end() - first_target + 1 - passed_over; }
};

/// The windows of a document with these targets, which ascend. Each is predicted once, from as long
/// a past as the window holds; nothing is read behind the last one.
std::vector<Window> cut(std::int64_t document, std::span<const TokenRange> targets,
                        const WindowRules& rules);

/// Windows that are computed together.
using WindowBatch = std::vector<Window>;

/// The windows of a shard's documents in order, in batches of at most rules.batch that read at most
/// max(window, 4096) tokens. repeats: [D] whether a document's context is that of the one before;
/// empty: none is.
std::vector<WindowBatch> pack(const ShardDocuments& documents, const WindowRules& rules,
                              const std::vector<std::uint8_t>& repeats = {});

/// tokens: for each window in turn the size + 1 tokens that it reads and predicts.
MicroBatch to_micro_batch(const WindowBatch& windows, std::span<const std::int32_t> tokens,
                          const ShardDocuments& documents);

}  // namespace moesaic::data
