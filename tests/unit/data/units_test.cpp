// Which documents become samples, and how a step's are dealt to its micro-batches.
#include "data/units.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <set>

#include "data/sample.h"

namespace moesaic::data {
namespace {

using config::TooLong;
using Counts = std::vector<std::int64_t>;

ShardDocuments documents_of(const Counts& lengths, const Counts& groups = {}) {
  ShardDocuments documents;
  documents.offsets = {0};
  for (const std::int64_t length : lengths) {
    documents.offsets.push_back(documents.offsets.back() + length);
    documents.context.push_back(0);
    documents.task.push_back(static_cast<std::uint8_t>(documents.task.size()));
  }
  documents.group = groups;
  return documents;
}

// {begin, tokens, rows} of each unit.
std::vector<Counts> places(const ShardUnits& found) {
  std::vector<Counts> all;
  for (const Unit& unit : found.units) {
    all.push_back({unit.begin, unit.tokens, unit.rows});
  }
  return all;
}

Counts counts(const ShardUnits& found) {
  return {found.counts.documents, found.counts.dropped, found.counts.cut,
          found.counts.without_targets};
}

// Protects: a document of seq_len + 1 tokens is whole, since its last token is never read; one more
// is too long. Documents of one token or none have nothing to predict.
TEST(Units, LimitsOfLength) {
  const ShardDocuments documents = documents_of({5, 0, 6, 1, 2, 9});
  const ShardUnits dropped = units_of(documents, 4, TooLong::kDrop);
  EXPECT_EQ(places(dropped), (std::vector<Counts>{{0, 5, 4}, {12, 2, 1}}));
  EXPECT_EQ(counts(dropped), (Counts{6, 2, 0, 2}));
  EXPECT_EQ(dropped.units[1].task, 4);
  EXPECT_EQ(dropped.counts.text(),
            "6 (2 longer than data.seq_len: dropped, 2 without targets: skipped)");
  const ShardUnits cut = units_of(documents, 4, TooLong::kEnd);
  EXPECT_EQ(places(cut), (std::vector<Counts>{{0, 5, 4}, {5, 5, 4}, {12, 2, 1}, {14, 5, 4}}));
  EXPECT_EQ(counts(cut), (Counts{6, 0, 2, 2}));
  EXPECT_EQ(DocumentCounts{.documents = 7}.text(), "7");
}

// Protects: neighbours of one group are one unit, two groups of one number apart are two, and 0 is
// no group. What is wrong with one document leaves out its group, so that no pair loses a half.
TEST(Units, Groups) {
  const ShardDocuments documents =
      documents_of({3, 4, 2, 2, 5, 9, 3, 1, 2, 2}, {7, 7, 0, 0, 2, 2, 3, 3, 7, 8});
  const ShardUnits dropped = units_of(documents, 5, TooLong::kDrop);
  EXPECT_EQ(places(dropped),
            (std::vector<Counts>{{0, 7, 5}, {7, 2, 1}, {9, 2, 1}, {29, 2, 1}, {31, 2, 1}}));
  EXPECT_EQ(counts(dropped), (Counts{10, 2, 0, 2}));
  const ShardUnits cut = units_of(documents, 5, TooLong::kEnd);
  EXPECT_EQ(places(cut)[3], (Counts{11, 11, 9}));
  EXPECT_EQ(cut.units[3].task, 4) << "a unit's task is that of its first document";
  EXPECT_EQ(counts(cut), (Counts{10, 0, 1, 2}));
}

// Protects: what has no target is left out after the cut: a context, spans behind the cut, spans of
// the first token alone, none at all.
TEST(Units, Targets) {
  ShardDocuments documents = documents_of({4, 4, 4, 9});
  documents.context = {3, 4, 0, 6};
  EXPECT_EQ(counts(units_of(documents, 9, TooLong::kDrop)), (Counts{4, 0, 0, 1}));
  EXPECT_EQ(counts(units_of(documents, 5, TooLong::kEnd)), (Counts{4, 0, 0, 2}));
  EXPECT_EQ(counts(units_of(documents, 6, TooLong::kEnd)), (Counts{4, 0, 1, 1}));
  documents.spans = {.offsets = {0, 0, 1, 2, 4}, .ranges = {{0, 1}, {0, 2}, {2, 3}, {8, 9}}};
  EXPECT_EQ(places(units_of(documents, 5, TooLong::kEnd)),
            (std::vector<Counts>{{8, 4, 3}, {12, 6, 5}}));
}

TEST(Units, NoDocuments) {
  EXPECT_TRUE(units_of(documents_of({}), 5, TooLong::kDrop).units.empty());
}

Counts loads(const std::vector<std::vector<std::size_t>>& dealt, const Counts& rows) {
  Counts all;
  for (const auto& batch : dealt) {
    all.push_back(
        std::accumulate(batch.begin(), batch.end(), std::int64_t{0},
                        [&](std::int64_t sum, std::size_t unit) { return sum + rows[unit]; }));
  }
  return all;
}

// Protects: each unit is dealt once, each micro-batch is full, and work is about equal: the longest
// unit does not lie beside the next longest one.
TEST(Deal, EvensOut) {
  const Counts rows = {1, 9, 3, 8, 2, 7, 7, 5};
  const auto dealt = deal(rows, 2);
  EXPECT_EQ(dealt, (std::vector<std::vector<std::size_t>>{{5, 7}, {1, 0}, {3, 4}, {6, 2}}));
  EXPECT_EQ(loads(dealt, rows), (Counts{12, 10, 10, 10}));
  EXPECT_EQ(deal(rows, 1),
            (std::vector<std::vector<std::size_t>>{{1}, {3}, {5}, {6}, {7}, {2}, {4}, {0}}));
  EXPECT_EQ(deal(rows, 8).at(0).size(), 8U);
  std::set<std::size_t> seen;
  for (const auto& batch : dealt) {
    EXPECT_EQ(batch.size(), 2U);
    seen.insert(batch.begin(), batch.end());
  }
  EXPECT_EQ(seen.size(), rows.size());
}

// Protects: equal units keep their order.
TEST(Deal, TiesGoByOrder) {
  EXPECT_EQ(deal(Counts{4, 4, 4, 4}, 2), (std::vector<std::vector<std::size_t>>{{0, 2}, {1, 3}}));
}

// Protects: no row is padding, positions and attention begin anew with each document, and weights
// are there only where one is not 1.
TEST(Units, MicroBatch) {
  const auto sample = [](std::int32_t first, std::size_t rows, float weight) {
    Sample made;
    made.whole = true;
    for (std::size_t i = 0; i < rows; ++i) {
      made.token.push_back(first + static_cast<std::int32_t>(i));
      made.target.push_back(i == 0 ? -1 : first + static_cast<std::int32_t>(i) + 1);
      made.begin.push_back(0);
      made.task.push_back(3);
      made.document.push_back(first);
      made.position.push_back(static_cast<std::int64_t>(i));
      made.weight.push_back(weight);
    }
    return made;
  };
  const MicroBatch batch = micro_batch_of(std::vector{sample(10, 3, 1.0F), sample(20, 2, 0.5F)});
  EXPECT_EQ(batch.token, (std::vector<std::int32_t>{10, 11, 12, 20, 21}));
  EXPECT_EQ(batch.target, (std::vector<std::int32_t>{-1, 12, 13, -1, 22}));
  EXPECT_EQ(batch.position, (std::vector<std::int32_t>{0, 1, 2, 0, 1}));
  EXPECT_EQ(batch.first_key, (std::vector<std::int32_t>{0, 0, 0, 3, 3}));
  EXPECT_EQ(batch.sample, (std::vector<std::int32_t>{0, 0, 0, 1, 1}));
  EXPECT_EQ(batch.weight, (std::vector<float>{1.0F, 1.0F, 1.0F, 0.5F, 0.5F}));
  EXPECT_EQ(batch.counted(), 3);
  const KeyRanges seen = key_ranges(batch, 0);
  EXPECT_EQ(seen.origin, (std::vector<std::int32_t>{0, 0, 0, 3, 3}));
  EXPECT_EQ(seen.first, batch.first_key);
  EXPECT_EQ(seen.last, (std::vector<std::int32_t>{1, 2, 3, 4, 5}));
  EXPECT_TRUE(micro_batch_of(std::vector{sample(10, 3, 1.0F)}).weight.empty());
  EXPECT_EQ(micro_batch_of({}).size(), 0);
}

}  // namespace
}  // namespace moesaic::data
