#include "data/windows.h"

#include <algorithm>

#include "config/config.h"

namespace moesaic::data {
namespace {

// Adds the rows of one window; tokens: its size + 1. first_row: that of its first token, which may
// be a leader's.
void add_window(const Window& window, std::span<const std::int32_t> tokens,
                const ShardDocuments& documents, std::int32_t first_row, MicroBatch& batch) {
  const auto document = static_cast<std::size_t>(window.document);
  const std::vector<TokenRange> targets = documents.targets(document);
  for (std::int64_t i = window.shared; i < window.size; ++i) {
    const auto at = static_cast<std::size_t>(i);
    const std::int64_t next = window.begin + i + 1;
    const bool counted = next >= window.first_target && contains(targets, next);
    batch.token.push_back(tokens[at]);
    batch.target.push_back(counted ? tokens[at + 1] : -1);
    batch.position.push_back(static_cast<std::int32_t>(i));
    batch.first_key.push_back(first_row);
    batch.task.push_back(documents.task[document]);
  }
}

// The targets in [begin, end], both of which are targets.
std::int64_t targets_within(std::span<const TokenRange> targets, std::int64_t begin,
                            std::int64_t end) {
  std::int64_t count = 0;
  for (const TokenRange& range : targets) {
    count += std::max<std::int64_t>(0, std::min(range.end, end + 1) - std::max(range.begin, begin));
  }
  return count;
}

// The first target that is not before a token; none: behind the last one.
std::int64_t next_target(std::span<const TokenRange> targets, std::int64_t token) {
  const auto range = std::find_if(targets.begin(), targets.end(),
                                  [token](const TokenRange& each) { return each.end > token; });
  return range == targets.end() ? targets.back().end : std::max(range->begin, token);
}

// The last target that is not behind a token; there is one.
std::int64_t last_target(std::span<const TokenRange> targets, std::int64_t token) {
  const auto range = std::find_if(targets.rbegin(), targets.rend(),
                                  [token](const TokenRange& each) { return each.begin <= token; });
  return std::min(range->end - 1, token);
}

}  // namespace

std::vector<Window> cut(std::int64_t document, std::span<const TokenRange> targets,
                        const WindowRules& rules) {
  std::vector<Window> windows;
  if (targets.empty()) {
    return windows;
  }
  const std::int64_t last = targets.back().end - 1;
  const std::int64_t stride = rules.last_only ? rules.window : rules.stride;
  std::int64_t target =
      next_target(targets, rules.last_only ? last - rules.window + 1 : std::int64_t{0});
  while (target <= last) {
    const std::int64_t end =
        last_target(targets, std::min(last, std::max(rules.window, target - 1 + stride)));
    const std::int64_t begin = std::max<std::int64_t>(0, end - rules.window);
    windows.push_back({.document = document,
                       .begin = begin,
                       .size = end - begin,
                       .first_target = target,
                       .passed_over = end - target + 1 - targets_within(targets, target, end)});
    target = next_target(targets, end + 1);
  }
  return windows;
}

std::vector<WindowBatch> pack(const ShardDocuments& documents, const WindowRules& rules,
                              const std::vector<std::uint8_t>& repeats) {
  const std::int64_t limit = std::max(rules.window, config::kScoreTokens);
  const auto full = [&](const WindowBatch& batch) {
    return rules.batch > 0 && std::ssize(batch) >= rules.batch;
  };
  std::vector<WindowBatch> batches;
  std::int64_t room = 0;
  std::ptrdiff_t leader = -1;  // in the last batch, of the document before; -1: none
  for (std::size_t d = 0; d + 1 < documents.offsets.size(); ++d) {
    const std::int64_t context = documents.context[d];
    std::vector<Window> windows = cut(static_cast<std::int64_t>(d), documents.targets(d), rules);
    // All of the context is read at once, and nothing of it is predicted.
    const bool whole =
        windows.size() == 1 && windows[0].begin == 0 && windows[0].first_target >= context;
    const bool repeated = rules.share && d < repeats.size() && repeats[d] != 0 && whole;
    if (!repeated) {
      leader = -1;
    }
    if (leader >= 0) {  // the last context token predicts another one here: it is read again
      windows[0].shared = (context - 1) / kForkUnit * kForkUnit;
      windows[0].leader = static_cast<std::size_t>(leader);
    }
    for (Window& window : windows) {
      if (window.rows() > room || full(batches.back())) {
        batches.emplace_back();
        room = limit;
        window.shared = 0;
        leader = -1;
      }
      batches.back().push_back(window);
      room -= window.rows();
    }
    if (leader < 0 && whole && context > 1) {
      leader = std::ssize(batches.back()) - 1;
    }
  }
  return batches;
}

MicroBatch to_micro_batch(const WindowBatch& windows, std::span<const std::int32_t> tokens,
                          const ShardDocuments& documents) {
  MicroBatch batch;
  std::size_t begin = 0;
  std::vector<std::int32_t> first_rows;
  for (const Window& window : windows) {
    const auto length = static_cast<std::size_t>(window.size) + 1;
    const bool shares = window.shared > 0;
    const std::int64_t row = batch.size();
    first_rows.push_back(shares ? first_rows[window.leader] : static_cast<std::int32_t>(row));
    batch.key_runs.push_back({row, window.rows(), window.shared, first_rows.back()});
    add_window(window, tokens.subspan(begin, length), documents, first_rows.back(), batch);
    begin += length;
  }
  return batch;
}

}  // namespace moesaic::data
