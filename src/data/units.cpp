#include "data/units.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <numeric>
#include <queue>
#include <utility>

#include "base/error.h"
#include "base/text.h"

namespace moesaic::data {
namespace {

// The document behind the group of document d.
std::size_t end_of_group(const ShardDocuments& documents, std::size_t d) {
  const std::size_t count = documents.offsets.size() - 1;
  std::size_t end = d + 1;
  if (documents.group.empty() || documents.group[d] == 0) {
    return end;
  }
  while (end < count && documents.group[end] == documents.group[d]) {
    ++end;
  }
  return end;
}

}  // namespace

void DocumentCounts::add(const DocumentCounts& other) {
  documents += other.documents;
  dropped += other.dropped;
  cut += other.cut;
  without_targets += other.without_targets;
}

std::string DocumentCounts::text() const {
  std::vector<std::string> parts;
  const auto add = [&parts](std::int64_t count, const char* what) {
    if (count > 0) {
      parts.push_back(fmt::format("{} {}", count, what));
    }
  };
  add(dropped, "longer than data.seq_len: dropped");
  add(cut, "longer than data.seq_len: cut");
  add(without_targets, "without targets: skipped");
  return parts.empty() ? std::to_string(documents)
                       : fmt::format("{} ({})", documents, join(parts, ", "));
}

ShardUnits units_of(const ShardDocuments& documents, std::int64_t seq_len,
                    config::TooLong too_long) {
  const std::int64_t most = seq_len + 1;
  const std::size_t count = documents.offsets.size() - 1;
  ShardUnits found;
  found.counts.documents = static_cast<std::int64_t>(count);
  for (std::size_t first = 0, end = 0; first < count; first = end) {
    end = end_of_group(documents, first);
    Unit unit{.begin = documents.offsets[first], .task = documents.task[first]};
    std::int64_t longer = 0;
    bool has_targets = true;
    for (std::size_t d = first; d < end; ++d) {
      const std::int64_t tokens = documents.offsets[d + 1] - documents.offsets[d];
      const std::int64_t kept = std::min(tokens, most);
      const std::vector<TokenRange> targets = documents.targets(d);
      longer += tokens > most ? 1 : 0;
      has_targets = has_targets && !targets.empty() && targets.front().begin < kept;
      unit.rows += std::max<std::int64_t>(0, kept - 1);
      unit.tokens = documents.offsets[d] + kept - unit.begin;
    }
    const auto all = static_cast<std::int64_t>(end - first);
    if (longer > 0 && too_long == config::TooLong::kDrop) {
      found.counts.dropped += all;
    } else if (!has_targets) {
      found.counts.without_targets += all;
    } else {
      found.counts.cut += longer;
      found.units.push_back(unit);
    }
  }
  return found;
}

std::vector<std::vector<std::size_t>> deal(std::span<const std::int64_t> rows, std::int64_t each) {
  require(std::ssize(rows) % each == 0, "units that do not fill the micro-batches");
  std::vector<std::size_t> order(rows.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return rows[a] > rows[b]; });
  std::vector<std::vector<std::size_t>> batches(rows.size() / static_cast<std::size_t>(each));
  using Load = std::pair<std::int64_t, std::size_t>;  // rows, number
  std::priority_queue<Load, std::vector<Load>, std::greater<>> with_room;
  for (std::size_t b = 0; b < batches.size(); ++b) {
    with_room.emplace(0, b);
  }
  std::vector<std::int64_t> loads(batches.size(), 0);
  for (const std::size_t unit : order) {
    const std::size_t b = with_room.top().second;
    with_room.pop();
    batches[b].push_back(unit);
    loads[b] += rows[unit];
    if (std::ssize(batches[b]) < each) {
      with_room.emplace(loads[b], b);
    }
  }
  std::vector<std::size_t> longest_first(batches.size());
  std::iota(longest_first.begin(), longest_first.end(), std::size_t{0});
  std::stable_sort(longest_first.begin(), longest_first.end(),
                   [&](std::size_t a, std::size_t b) { return loads[a] > loads[b]; });
  std::vector<std::vector<std::size_t>> dealt;
  dealt.reserve(batches.size());
  for (const std::size_t b : longest_first) {
    dealt.push_back(std::move(batches[b]));
  }
  return dealt;
}

}  // namespace moesaic::data
