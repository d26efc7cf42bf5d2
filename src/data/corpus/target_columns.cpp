#include "data/corpus/target_columns.h"

#include <fmt/format.h>

#include <cmath>
#include <filesystem>

#include "base/error.h"
#include "data/corpus/shard.h"
#include "data/corpus/shard_checks.h"

namespace moesaic::data {
namespace {

constexpr const char* kOffsets = "/documents/spans/offsets";
constexpr const char* kBegin = "/documents/spans/begin";
constexpr const char* kEnd = "/documents/spans/end";

void check_spans(const files::Hdf5File& file, std::int64_t document, std::int64_t tokens,
                 std::span<const TokenRange> spans) {
  std::int64_t before = 0;
  for (const TokenRange& span : spans) {
    if (span.begin < before || span.begin >= span.end || span.end > tokens) {
      refuse_shard(file.path(),
                   fmt::format("document {} of {} tokens has the span [{}, {}) after position {}: "
                               "spans of a document ascend, do not overlap and are not empty",
                               document, tokens, span.begin, span.end, before));
    }
    before = span.end;
  }
}

void check_weight(const files::Hdf5File& file, std::int64_t document, float weight) {
  if (!std::isfinite(weight) || weight <= 0.0F) {
    refuse_shard(file.path(), fmt::format("document {} has a weight of {}, which is not above 0",
                                          document, weight));
  }
}

template <class T>
void accept(std::int64_t /*first*/, const std::vector<T>& /*values*/) {}

}  // namespace

TargetColumns::TargetColumns(const files::Hdf5File& file, std::int64_t version,
                             std::int64_t documents)
    : documents_(documents),
      has_spans_(file.has(kSpans)),
      has_group_(file.has(kGroup)),
      has_weight_(file.has(kWeight)) {
  for (const char* const name : {kSpans, kGroup, kWeight}) {
    if (version < 2 && file.has(name)) {
      throw Error(Exit::kBadData,
                  fmt::format("{}: has {}, but its attribute 'version' is {}: such a file is of "
                              "version 2; set the attribute",
                              std::filesystem::absolute(file.path()).string(), name, version));
    }
  }
  check_length(file, kGroup, documents);
  check_length(file, kWeight, documents);
  if (has_weight_ && file.type_of(kWeight)[0] != 'f') {
    refuse_shard(file.path(), fmt::format("{} is {}, not f4", kWeight, file.type_of(kWeight)));
  }
  weight_ = ColumnBlocksOf<float>(file, kWeight, documents);
  if (!has_spans_) {
    return;
  }
  count_ = length_of(file, kBegin);
  if (const std::int64_t ends = length_of(file, kEnd); ends != count_) {
    refuse_shard(file.path(),
                 fmt::format("{} has {} entries, but {} has {}", kBegin, count_, kEnd, ends));
  }
  if (const std::int64_t length = length_of(file, kOffsets); length != documents + 1) {
    refuse_shard(file.path(), fmt::format("{} has {} entries for {} documents, not one more",
                                          kOffsets, length, documents));
  }
  offsets_ = ColumnBlocks(file, kOffsets, documents + 1);
  begin_ = ColumnBlocks(file, kBegin, count_);
  end_ = ColumnBlocks(file, kEnd, count_);
}

/// Checks offsets [first, first + size) into the spans.
void TargetColumns::check_offsets(const files::Hdf5File& file, std::int64_t first,
                                  const std::vector<std::int64_t>& offsets) const {
  check_sorted(file.path(), kOffsets, first, offsets);
  const bool last = first + std::ssize(offsets) == documents_ + 1;
  if (offsets.front() < 0 || offsets.back() > count_ || (last && offsets.back() != count_)) {
    refuse_shard(file.path(),
                 fmt::format("entries {} to {} of {} are {} to {}, but there are {} spans", first,
                             first + std::ssize(offsets) - 1, kOffsets, offsets.front(),
                             offsets.back(), count_));
  }
}

void TargetColumns::read(const files::Hdf5File& file, ShardDocuments& table) const {
  if (has_spans_) {
    DocumentSpans& spans = table.spans;
    spans.offsets = file.read_all<std::int64_t>(kOffsets);
    check_offsets(file, 0, spans.offsets);
    const auto begin = file.read_all<std::int64_t>(kBegin);
    const auto end = file.read_all<std::int64_t>(kEnd);
    for (std::size_t s = 0; s < begin.size(); ++s) {
      spans.ranges.push_back({begin[s], end[s]});
    }
    for (std::int64_t d = 0; d < documents_; ++d) {
      const auto at = static_cast<std::size_t>(d);
      check_spans(file, d, table.offsets[at + 1] - table.offsets[at], spans.of(at));
    }
  }
  if (has_group_) {
    table.group = file.read_all<std::int64_t>(kGroup);
  }
  if (has_weight_) {
    table.weight = file.read_all<float>(kWeight);
    for (std::int64_t d = 0; d < documents_; ++d) {
      check_weight(file, d, table.weight[static_cast<std::size_t>(d)]);
    }
  }
}

void TargetColumns::append(const files::Hdf5File& file, std::int64_t document, DocumentRun& run) {
  if (has_spans_) {
    const auto offset = [&](std::int64_t d) {
      return offsets_.at(file, d,
                         [&](std::int64_t first, const std::vector<std::int64_t>& offsets) {
                           check_offsets(file, first, offsets);
                         });
    };
    const std::int64_t first = offset(document), end = offset(document + 1);
    check_offsets(file, document, {first, end});
    std::vector<TokenRange> spans;
    for (std::int64_t s = first; s < end; ++s) {
      spans.push_back(
          {begin_.at(file, s, accept<std::int64_t>), end_.at(file, s, accept<std::int64_t>)});
    }
    check_spans(file, document, run.offsets.back() - *(run.offsets.end() - 2), spans);
    run.spans.append(spans);
  }
  if (has_weight_) {
    run.weight.push_back(weight_.at(file, document, accept<float>));
    check_weight(file, document, run.weight.back());
  }
}

}  // namespace moesaic::data
