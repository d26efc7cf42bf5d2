#include "data/corpus/targets.h"

#include <algorithm>

namespace moesaic::data {

std::span<const TokenRange> DocumentSpans::of(std::size_t document) const {
  const std::int64_t begin = offsets.at(document);
  return std::span(ranges).subspan(static_cast<std::size_t>(begin),
                                   static_cast<std::size_t>(offsets.at(document + 1) - begin));
}

void DocumentSpans::append(std::span<const TokenRange> more) {
  if (offsets.empty()) {
    offsets.push_back(0);
  }
  ranges.insert(ranges.end(), more.begin(), more.end());
  offsets.push_back(std::ssize(ranges));
}

std::vector<TokenRange> targets_of(const DocumentSpans& spans, std::size_t document,
                                   std::int64_t tokens, std::int64_t context) {
  std::vector<TokenRange> targets;
  const auto add = [&](TokenRange range) {
    range.begin = std::max<std::int64_t>(1, range.begin);
    if (range.begin < range.end) {
      targets.push_back(range);
    }
  };
  if (spans.exist()) {
    for (const TokenRange& range : spans.of(document)) {
      add(range);
    }
  } else {
    add({context, tokens});
  }
  return targets;
}

bool contains(std::span<const TokenRange> ranges, std::int64_t token) {
  const auto after =
      std::upper_bound(ranges.begin(), ranges.end(), token,
                       [](std::int64_t value, const TokenRange& each) { return value < each.end; });
  return after != ranges.end() && after->begin <= token;
}

std::int64_t count_of(std::span<const TokenRange> ranges) {
  std::int64_t count = 0;
  for (const TokenRange& range : ranges) {
    count += range.end - range.begin;
  }
  return count;
}

}  // namespace moesaic::data
