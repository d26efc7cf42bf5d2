#include "data/windows.h"

#include <gtest/gtest.h>

#include <numeric>

namespace moesaic::data {
namespace {

// All tokens behind the context.
std::vector<TokenRange> targets(std::int64_t tokens, std::int64_t context) {
  return targets_of({}, 0, tokens, context);
}

// How often each token is predicted, and from how many tokens before it at least.
struct Coverage {
  std::vector<int> times;
  std::vector<std::int64_t> past;
};

Coverage coverage(const std::vector<Window>& windows, std::int64_t tokens) {
  Coverage result{std::vector<int>(static_cast<std::size_t>(tokens)),
                  std::vector<std::int64_t>(static_cast<std::size_t>(tokens))};
  for (const Window& window : windows) {
    EXPECT_GE(window.begin, 0);
    EXPECT_LT(window.end(), tokens);
    EXPECT_GT(window.first_target, window.begin);
    for (std::int64_t t = window.first_target; t <= window.end(); ++t) {
      ++result.times[static_cast<std::size_t>(t)];
      result.past[static_cast<std::size_t>(t)] = t - window.begin;
    }
  }
  return result;
}

// No token is lost or counted twice, whatever the lengths, and none has less past than the stride
// leaves it.
TEST(Windows, EachTokenOnce) {
  for (const std::int64_t window : {1, 2, 5, 8}) {
    for (std::int64_t stride = 1; stride <= window; ++stride) {
      for (std::int64_t tokens = 0; tokens <= 30; ++tokens) {
        for (std::int64_t context = 0; context <= tokens; context += 3) {
          const auto windows = cut(7, targets(tokens, context), {window, stride, false});
          const Coverage seen = coverage(windows, tokens);
          for (std::int64_t t = 0; t < tokens; ++t) {
            const auto at = static_cast<std::size_t>(t);
            EXPECT_EQ(seen.times[at], t >= std::max<std::int64_t>(1, context) ? 1 : 0);
            if (seen.times[at] > 0) {
              EXPECT_GE(seen.past[at], std::min(t, window - stride + 1));
            }
          }
          for (const Window& each : windows) {
            EXPECT_LE(each.size, window);
            EXPECT_EQ(each.document, 7);
          }
        }
      }
    }
  }
}

// A document as long as the model can predict at once is not cut.
TEST(Windows, WholeDocument) {
  const auto windows = cut(0, targets(9, 0), {8, 4, false});
  ASSERT_EQ(windows.size(), 1U);
  EXPECT_EQ(windows[0].begin, 0);
  EXPECT_EQ(windows[0].size, 8);
  EXPECT_EQ(windows[0].first_target, 1);
  EXPECT_EQ(cut(0, targets(10, 0), {8, 4, false}).size(), 2U);
}

// truncate = left keeps the last window alone.
TEST(Windows, TruncateLeft) {
  for (std::int64_t tokens = 2; tokens <= 30; ++tokens) {
    const auto windows = cut(0, targets(tokens, 0), {8, 4, true});
    ASSERT_EQ(windows.size(), 1U);
    EXPECT_EQ(windows[0].end(), tokens - 1);
    EXPECT_EQ(windows[0].targets(), std::min<std::int64_t>(8, tokens - 1));
  }
  EXPECT_EQ(cut(0, targets(30, 28), {8, 4, true})[0].targets(), 2);
}

// Protects masked conversations: each target once, wherever spans lie, and none but them.
TEST(Windows, SpansAlone) {
  const std::vector<std::vector<TokenRange>> cases = {
      {{1, 2}}, {{4, 7}}, {{1, 3}, {5, 6}, {20, 30}}, {{2, 4}, {17, 18}}, {{29, 30}}};
  for (const std::vector<TokenRange>& spans : cases) {
    for (const std::int64_t window : {1, 2, 5, 8, 40}) {
      for (std::int64_t stride = 1; stride <= window; stride += 2) {
        std::vector<int> times(30, 0);
        for (const Window& each : cut(0, spans, {window, stride, false})) {
          EXPECT_LE(each.size, window);
          EXPECT_TRUE(contains(spans, each.first_target) && contains(spans, each.end()));
          std::int64_t predicted = 0;
          for (std::int64_t t = each.first_target; t <= each.end(); ++t) {
            if (contains(spans, t)) {
              ++times[static_cast<std::size_t>(t)];
              ++predicted;
              EXPECT_GE(t - each.begin, std::min(t, window - stride + 1));
            }
          }
          EXPECT_EQ(each.targets(), predicted);
        }
        for (std::int64_t t = 0; t < 30; ++t) {
          EXPECT_EQ(times[static_cast<std::size_t>(t)], contains(spans, t) ? 1 : 0);
        }
      }
    }
  }
  EXPECT_TRUE(cut(0, {}, {8, 4, false}).empty());
  const auto last = cut(0, cases[2], {8, 4, true});
  ASSERT_EQ(last.size(), 1U);
  EXPECT_EQ(last[0].first_target, 22);
}

ShardDocuments documents_of(const std::vector<std::int64_t>& lengths) {
  ShardDocuments documents;
  documents.offsets = {0};
  for (const std::int64_t length : lengths) {
    documents.offsets.push_back(documents.offsets.back() + length);
  }
  documents.context.assign(lengths.size(), 0);
  documents.bytes.assign(lengths.size(), 0);
  documents.task.assign(lengths.size(), 0);
  return documents;
}

// Batches hold every window in order and stay below the limit.
TEST(Windows, Pack) {
  const auto documents = documents_of({1, 0, 4000, 200, 3, 9000, 1, 50});
  const WindowRules rules{1000, 500, false};
  const auto batches = pack(documents, rules);
  std::vector<std::int64_t> scored(8, 0);
  std::int64_t document = 0;
  for (const WindowBatch& batch : batches) {
    std::int64_t size = 0;
    for (const Window& window : batch) {
      size += window.size;
      EXPECT_GE(window.document, document);
      document = window.document;
      scored[static_cast<std::size_t>(document)] += window.targets();
    }
    EXPECT_GT(size, 0);
    EXPECT_LE(size, 4096);
  }
  EXPECT_EQ(scored, (std::vector<std::int64_t>{0, 0, 3999, 199, 2, 8999, 0, 49}));
  EXPECT_GT(batches.size(), 3U);
  EXPECT_TRUE(pack(documents_of({}), rules).empty());
  EXPECT_TRUE(pack(documents_of({1, 0}), rules).empty());
}

// Neighbours with one context read it once, but for its last token, which predicts another one in
// each; a new batch reads it again, and so does a document that is cut.
TEST(Windows, SharedContexts) {
  ShardDocuments documents = documents_of({8, 7, 9, 30, 8, 8});
  documents.context = {5, 5, 5, 5, 5, 5};
  const WindowRules rules{16, 8, false, true};
  const auto batches = pack(documents, rules, {0, 1, 1, 1, 1, 0});
  ASSERT_EQ(batches.size(), 1U);
  std::vector<std::int64_t> shared;
  std::vector<std::size_t> leaders;
  for (const Window& window : batches[0]) {
    shared.push_back(window.shared);
    leaders.push_back(window.leader);
  }
  EXPECT_EQ(shared, (std::vector<std::int64_t>{0, 4, 4, 0, 0, 0, 0, 0}));
  EXPECT_EQ(leaders, (std::vector<std::size_t>{0, 0, 0, 0, 0, 0, 0, 0}));

  std::vector<std::int32_t> tokens{1, 2, 3, 4, 5, 61, 62, 63, 1, 2, 3, 4, 5, 71, 72};
  const WindowBatch two{batches[0][0], batches[0][1]};
  const MicroBatch batch = to_micro_batch(two, tokens, documents);
  EXPECT_EQ(batch.token, (std::vector<std::int32_t>{1, 2, 3, 4, 5, 61, 62, 5, 71}));
  EXPECT_EQ(batch.target, (std::vector<std::int32_t>{-1, -1, -1, -1, 61, 62, 63, 71, 72}));
  EXPECT_EQ(batch.position, (std::vector<std::int32_t>{0, 1, 2, 3, 4, 5, 6, 4, 5}));
  EXPECT_EQ(batch.first_key, std::vector<std::int32_t>(9, 0));

  documents = documents_of(std::vector<std::int64_t>(3000, 8));
  documents.context.assign(3000, 5);
  for (const WindowBatch& each : pack(documents, rules, std::vector<std::uint8_t>(3000, 1))) {
    EXPECT_EQ(each[0].shared, 0);
    EXPECT_EQ(each[1].shared, 4);
  }
}

// Protects what spans may name: a target within the context is predicted, so that the context is
// not read from another document; targets of a window are those of its document.
TEST(Windows, SpansInAContextAreNotShared) {
  ShardDocuments documents = documents_of({8, 8, 8});
  documents.context = {5, 5, 5};
  documents.spans = {.offsets = {0, 2, 3, 5}, .ranges = {{1, 2}, {5, 8}, {6, 7}, {1, 2}, {5, 8}}};
  const auto batches = pack(documents, {16, 8, false, true}, {0, 1, 1});
  ASSERT_EQ(batches.size(), 1U);
  ASSERT_EQ(batches[0].size(), 3U);
  for (const Window& window : batches[0]) {
    EXPECT_EQ(window.shared, 0);
  }
  EXPECT_EQ(batches[0][0].targets(), 4);
  EXPECT_EQ(batches[0][1].targets(), 1);
  EXPECT_EQ(batches[0][1].size, 6) << "nothing is read behind the last target";
  std::vector<std::int32_t> tokens(23);
  std::iota(tokens.begin(), tokens.end(), 0);
  const MicroBatch batch = to_micro_batch(batches[0], tokens, documents);
  EXPECT_EQ(batch.target, (std::vector<std::int32_t>{1,  -1, -1, -1, 5,  6,  7,  -1, -1, -1,
                                                     -1, -1, 14, 16, -1, -1, -1, 20, 21, 22}));
}

// Attention goes through windows one by one, and what they share begins where it was read; a batch
// holds no more windows than it may.
TEST(Windows, Runs) {
  ShardDocuments documents = documents_of({8, 7, 9});
  documents.context = {6, 6, 6};
  WindowRules rules{16, 8, false, true};
  const auto batches = pack(documents, rules, {0, 1, 1});
  ASSERT_EQ(batches.size(), 1U);
  std::vector<std::int32_t> tokens(27);
  std::iota(tokens.begin(), tokens.end(), 0);
  const MicroBatch batch = to_micro_batch(batches[0], tokens, documents);
  ASSERT_EQ(batch.key_runs.size(), 3U);
  for (std::size_t i = 0; i < 3; ++i) {
    const KeyRun& run = batch.key_runs[i];
    EXPECT_EQ(run.begin, std::vector<std::int64_t>({0, 7, 9})[i]);
    EXPECT_EQ(run.rows, std::vector<std::int64_t>({7, 2, 4})[i]);
    EXPECT_EQ(run.shared, i == 0 ? 0 : 4);
    EXPECT_EQ(run.leader, 0);
  }
  EXPECT_EQ(batch.size(), 13);
  const KeyRanges seen = key_ranges(batch, 0);
  const auto last = static_cast<std::size_t>(batch.size() - 1);  // its ninth, and last, read token
  EXPECT_EQ(seen.first[last], 0);
  EXPECT_EQ(seen.last[last], 8);
  EXPECT_EQ(seen.origin[last], 0);
  EXPECT_EQ(seen.fork[last], 4);
  EXPECT_EQ(seen.jump[last], 9 - 4) << "its own keys follow those that it shares";
  EXPECT_EQ(key_ranges(batch, 3).first[last], 5);

  rules.batch = 2;
  const auto pairs = pack(documents, rules, {0, 1, 1});
  ASSERT_EQ(pairs.size(), 2U);
  EXPECT_EQ(pairs[0].size(), 2U);
  EXPECT_EQ(pairs[1][0].shared, 0);
}

// Rows see their own window alone, and overlapped tokens are not counted again.
TEST(Windows, MicroBatch) {
  const WindowBatch windows{{0, 2, 3, 4}, {1, 0, 2, 1}};
  const std::vector<std::int32_t> tokens{12, 13, 14, 15, 20, 21, 22};
  ShardDocuments documents = documents_of({6, 3});
  documents.task = {3, 5};
  const MicroBatch batch = to_micro_batch(windows, tokens, documents);
  EXPECT_EQ(batch.token, (std::vector<std::int32_t>{12, 13, 14, 20, 21}));
  EXPECT_EQ(batch.target, (std::vector<std::int32_t>{-1, 14, 15, 21, 22}));
  EXPECT_EQ(batch.position, (std::vector<std::int32_t>{0, 1, 2, 0, 1}));
  EXPECT_EQ(batch.first_key, (std::vector<std::int32_t>{0, 0, 0, 3, 3}));
  EXPECT_EQ(batch.task, (std::vector<std::uint8_t>{3, 3, 3, 5, 5}));
  const KeyRanges seen = key_ranges(batch, 2);
  EXPECT_EQ(seen.first, (std::vector<std::int32_t>{0, 0, 1, 3, 3}));
  EXPECT_EQ(seen.last, (std::vector<std::int32_t>{1, 2, 3, 4, 5}));
  EXPECT_EQ(seen.origin, (std::vector<std::int32_t>{0, 0, 0, 3, 3}));
  EXPECT_TRUE(seen.fork.empty());
}

}  // namespace
}  // namespace moesaic::data
