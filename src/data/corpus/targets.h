#pragma once

#include <cstdint>
#include <span>
#include <vector>

// Which tokens of a document a model is to predict. Everything that trains or scores asks here.
namespace moesaic::data {

/// Tokens [begin, end) of a document.
struct TokenRange {
  std::int64_t begin = 0, end = 0;
  bool operator==(const TokenRange&) const = default;
};

/// The ranges that documents name as their targets. In each document they ascend and do not
/// overlap.
struct DocumentSpans {
  std::vector<std::int64_t> offsets;  // [documents + 1] into ranges; empty: there are no spans
  std::vector<TokenRange> ranges;

  bool exist() const { return !offsets.empty(); }
  std::span<const TokenRange> of(std::size_t document) const;
  /// Those of the next document.
  void append(std::span<const TokenRange> more);
};

/// The targets of document number `document` of `spans`, which has so many tokens. Where spans
/// exist they alone say it; else all but the first `context` tokens are targets. A document's first
/// token is none, since nothing lies before it.
std::vector<TokenRange> targets_of(const DocumentSpans& spans, std::size_t document,
                                   std::int64_t tokens, std::int64_t context);

/// Whether one of the ranges, which ascend, holds a token.
bool contains(std::span<const TokenRange> ranges, std::int64_t token);

/// How many tokens the ranges hold.
std::int64_t count_of(std::span<const TokenRange> ranges);

}  // namespace moesaic::data
