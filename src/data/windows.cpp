#include "data/windows.h"

#include <algorithm>
#include <optional>

#include "config/config.h"

namespace moesaic::data {
namespace {

// Adds the rows of one window; tokens: its size + 1. first_row: that of its first token, which may
// be a leader's.
void add_window(const Window& window, std::span<const std::int32_t> tokens, std::uint8_t task,
                std::int32_t first_row, MicroBatch& batch) {
  for (std::int64_t i = window.shared; i < window.size; ++i) {
    const auto at = static_cast<std::size_t>(i);
    const bool counted = window.begin + i + 1 >= window.first_target;
    batch.token.push_back(tokens[at]);
    batch.target.push_back(counted ? tokens[at + 1] : -1);
    batch.position.push_back(static_cast<std::int32_t>(i));
    batch.first_key.push_back(first_row);
    batch.task.push_back(task);
  }
}

}  // namespace

std::vector<Window> cut(std::int64_t document, std::int64_t tokens, std::int64_t context,
                        const WindowRules& rules) {
  std::vector<Window> windows;
  const std::int64_t last = tokens - 1;  // the last token is predicted, never read
  std::int64_t target = std::max<std::int64_t>(1, context);
  const std::int64_t stride = rules.last_only ? rules.window : rules.stride;
  if (rules.last_only) {
    target = std::max(target, last - rules.window + 1);
  }
  while (target <= last) {
    const std::int64_t end = std::min(last, std::max(rules.window, target - 1 + stride));
    const std::int64_t begin = std::max<std::int64_t>(0, end - rules.window);
    windows.push_back({document, begin, end - begin, target});
    target = end + 1;
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
  std::optional<std::size_t> leader;  // in the last batch, of the document before
  for (std::size_t d = 0; d + 1 < documents.offsets.size(); ++d) {
    const std::int64_t tokens = documents.offsets[d + 1] - documents.offsets[d];
    const std::int64_t context = documents.context[d];
    std::vector<Window> windows = cut(static_cast<std::int64_t>(d), tokens, context, rules);
    const bool whole = windows.size() == 1 && windows[0].begin == 0;
    const bool repeated = rules.share && d < repeats.size() && repeats[d] != 0 && whole;
    if (!repeated) {
      leader.reset();
    }
    if (leader) {  // the last context token predicts another one here: it is read again
      windows[0].shared = (context - 1) / kForkUnit * kForkUnit;
      windows[0].leader = *leader;
    }
    for (Window& window : windows) {
      if (window.rows() > room || full(batches.back())) {
        batches.emplace_back();
        room = limit;
        window.shared = 0;
        leader.reset();
      }
      batches.back().push_back(window);
      room -= window.rows();
    }
    if (!leader && whole && context > 1) {
      leader = batches.back().size() - 1;
    }
  }
  return batches;
}

MicroBatch to_micro_batch(const WindowBatch& windows, std::span<const std::int32_t> tokens,
                          std::span<const std::uint8_t> task) {
  MicroBatch batch;
  std::size_t begin = 0;
  std::vector<std::int32_t> first_rows;
  for (const Window& window : windows) {
    const auto length = static_cast<std::size_t>(window.size) + 1;
    const bool shares = window.shared > 0;
    const std::int64_t row = batch.size();
    first_rows.push_back(shares ? first_rows[window.leader] : static_cast<std::int32_t>(row));
    batch.key_runs.push_back({row, window.rows(), window.shared, first_rows.back()});
    add_window(window, tokens.subspan(begin, length),
               task[static_cast<std::size_t>(window.document)], first_rows.back(), batch);
    begin += length;
  }
  return batch;
}

}  // namespace moesaic::data
