#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "data/micro_batch.h"
#include "routing/routed_rows.h"

namespace moesaic::data {

/// Rows that follow each other in a micro-batch: tokens of a corpus and what they should predict.
struct Sample {
  std::vector<std::int32_t> token, target;  // [rows]; target -1: not counted
  std::vector<std::int32_t> begin;          // [rows] where in the sample its document begins
  std::vector<std::uint8_t> task;           // [rows] among the joint task names
  std::size_t corpus = 0;
  std::vector<std::int64_t> document, position;  // [rows] in the corpus, in the document
  std::vector<float> weight;                     // [rows] of the target
  bool whole = false;  // one document from its first token on: its bits do not depend on others

  std::int64_t rows() const { return std::ssize(token); }
};

/// Samples laid one after the other.
MicroBatch micro_batch_of(std::span<const Sample> samples);
/// Which tokens those are, for the routing record; first: row of the first one.
routing::TokenRows token_rows_of(std::span<const Sample> samples, std::int64_t first);

}  // namespace moesaic::data
