// Protects attention to keys and values in pages: where rows are stored, what each row sees, and
// that its bits do not depend on the rows beside it.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "reference/attention.h"
#include "unit/backend/kernel_test.h"

namespace moesaic::testing {
namespace {

using reference::Heads;

// Rows [first, end) of a sequence that are computed together; all before them are stored.
struct Chunk {
  std::int64_t sequence, first, end;
};

struct Result {
  Vector out, lse;
};

class PagedKernels : public KernelTest {
 protected:
  // Sequences of these lengths; latent: values are the beginnings of the keys.
  void make(const Heads& heads, const Indices& lengths, bool latent = false) {
    heads_ = heads;
    latent_ = latent;
    qkv_.clear();
    pages_.clear();
    std::int64_t all = 0;
    for (std::size_t s = 0; s < lengths.size(); ++s) {
      Vector qkv = random({lengths[s], width()}, fmt::format("qkv {}", s), compute());
      for (std::int64_t t = 0; latent && t < lengths[s]; ++t) {
        const auto keys = qkv.begin() + t * width() + heads.query * heads.head_dim;
        std::copy_n(keys, heads.v_dim, keys + heads.head_dim);
      }
      qkv_.push_back(std::move(qkv));
      all += (lengths[s] + kPageTokens - 1) / kPageTokens;
    }
    // From the last page to the first, with one that nobody has in between.
    std::int64_t next = all + 1;
    for (const std::int64_t length : lengths) {
      pages_.emplace_back();
      for (std::int64_t begin = 0; begin < length; begin += kPageTokens) {
        next -= next == all / 2 + 1 ? 2 : 1;
        pages_.back().push_back(static_cast<std::int32_t>(next));
      }
    }
    keys_ = poisoned({all + 1, heads.key_value, kPageTokens, heads.head_dim}, compute());
    values_ = latent ? Tensor()
                     : poisoned({all + 1, heads.key_value, kPageTokens, heads.v_dim}, compute());
  }

  // Stores the chunks' rows and computes them in one call.
  Result compute_rows(const std::vector<Chunk>& chunks, std::int64_t window) {
    Indices offsets = {0}, position, page_offsets = {0}, pages;
    std::int64_t most_keys = 0;
    Vector rows;
    for (const Chunk& chunk : chunks) {
      const auto s = static_cast<std::size_t>(chunk.sequence);
      offsets.push_back(offsets.back() + chunk.end - chunk.first);
      position.push_back(chunk.first);
      pages.insert(pages.end(), pages_[s].begin(), pages_[s].end());
      page_offsets.push_back(std::ssize(pages));
      most_keys = std::max(most_keys, chunk.end);
      rows.insert(rows.end(), qkv_[s].begin() + chunk.first * width(),
                  qkv_[s].begin() + chunk.end * width());
    }
    const PagedRuns runs{.offsets = upload(offsets, {std::ssize(offsets)}),
                         .position = upload(position, {std::ssize(position)}),
                         .page_offsets = upload(page_offsets, {std::ssize(page_offsets)}),
                         .pages = upload(pages, {std::ssize(pages)}),
                         .most_keys = most_keys};
    const Tensor qkv = upload(rows, {offsets.back(), width()}, compute());
    const std::int64_t queries = heads_.query * heads_.head_dim;
    backend().store_in_pages(qkv, {queries, heads_.key_value, heads_.head_dim, heads_.head_dim},
                             runs, keys_);
    if (!latent_) {
      backend().store_in_pages(qkv,
                               {queries + heads_.key_value * heads_.head_dim, heads_.key_value,
                                heads_.v_dim, heads_.v_dim},
                               runs, values_);
    }
    const Tensor out = poisoned({offsets.back(), heads_.query, heads_.v_dim}, compute());
    const Tensor lse = poisoned({offsets.back(), heads_.query});
    Indices first, last;
    for (const Chunk& chunk : chunks) {
      for (std::int64_t t = chunk.first; t < chunk.end; ++t) {
        first.push_back(window > 0 ? std::max<std::int64_t>(0, t - window + 1) : 0);
        last.push_back(t + 1);
      }
    }
    backend().attention(
        {qkv, {0, heads_.query, heads_.head_dim, heads_.head_dim}}, {keys_, values_, runs},
        {.first = upload(first, {offsets.back()}), .last = upload(last, {offsets.back()})},
        to_float(heads_.scale), out, lse);
    return {download(out), download(lse)};
  }

  void check(const std::vector<Chunk>& chunks, std::int64_t window) {
    const Result actual = compute_rows(chunks, window);
    Result expected;
    for (const Chunk& chunk : chunks) {
      const Vector& qkv = qkv_[static_cast<std::size_t>(chunk.sequence)];
      Indices first_key;
      for (std::int64_t t = 0; t < std::ssize(qkv) / width(); ++t) {
        first_key.push_back(window > 0 ? std::max<std::int64_t>(0, t - window + 1) : 0);
      }
      const auto whole = reference::attention(qkv, heads_, first_key);
      const std::int64_t row = heads_.query * heads_.v_dim;
      expected.out.insert(expected.out.end(), whole.out.begin() + chunk.first * row,
                          whole.out.begin() + chunk.end * row);
      expected.lse.insert(expected.lse.end(), whole.lse.begin() + chunk.first * heads_.query,
                          whole.lse.begin() + chunk.end * heads_.query);
    }
    const std::string what =
        fmt::format("{} chunks, heads {}/{} of {}/{}, window {}", chunks.size(), heads_.query,
                    heads_.key_value, heads_.head_dim, heads_.v_dim, window);
    expect_close(actual.out, expected.out, tolerance(), "out of " + what);
    expect_close(actual.lse, expected.lse, tolerance(), "lse of " + what);
  }

  static Heads heads_of(std::int64_t query, std::int64_t key_value, std::int64_t head_dim,
                        std::int64_t v_dim) {
    return {query, key_value, head_dim, v_dim, 1.0 / std::sqrt(static_cast<double>(head_dim))};
  }

 private:
  std::int64_t width() const {
    return (heads_.query + heads_.key_value) * heads_.head_dim + heads_.key_value * heads_.v_dim;
  }

  Heads heads_{};
  bool latent_ = false;
  std::vector<Vector> qkv_;                       // of each sequence, fused
  std::vector<std::vector<std::int32_t>> pages_;  // of each sequence
  Tensor keys_, values_;
};

// Prompts, then a chunk in the middle of a page and single tokens, of several sequences at once.
TEST_P(PagedKernels, ChunksOfManySequences) {
  for (const auto& [query, key_value, head_dim, v_dim] :
       std::initializer_list<std::array<std::int64_t, 4>>{
           {1, 1, 2, 2}, {4, 2, 10, 10}, {3, 1, 16, 16}, {6, 3, 34, 20}, {2, 1, 5, 37}}) {
    for (const std::int64_t window : {0, 1, 7, 64, 100}) {
      make(heads_of(query, key_value, head_dim, v_dim), {150, 1, 70, 130});
      check({{0, 0, 60}, {1, 0, 1}, {2, 0, 64}}, window);
      check({{3, 0, 130}}, window);
      check({{2, 64, 65}, {0, 60, 149}, {2, 65, 70}}, window);
      check({{0, 149, 150}}, window);
      check({}, window);
    }
  }
}

TEST_P(PagedKernels, ValuesInsideOfKeys) {
  make(heads_of(3, 1, 40, 24), {90, 65}, true);
  check({{0, 0, 90}, {1, 0, 64}}, 0);
  check({{1, 64, 65}}, 0);
}

// A row alone, after others, and beside rows of another sequence: the same bits.
TEST_P(PagedKernels, BitsDoNotDependOnNeighbours) {
  make(heads_of(4, 2, 24, 24), {140, 80});
  const Result whole = compute_rows({{0, 0, 140}, {1, 0, 80}}, 50);
  Result one_by_one;
  for (std::int64_t t = 0; t < 140; ++t) {
    const Result row = compute_rows({{0, t, t + 1}}, 50);
    one_by_one.out.insert(one_by_one.out.end(), row.out.begin(), row.out.end());
    one_by_one.lse.insert(one_by_one.lse.end(), row.lse.begin(), row.lse.end());
  }
  const Result rest = compute_rows({{1, 0, 80}}, 50);
  one_by_one.out.insert(one_by_one.out.end(), rest.out.begin(), rest.out.end());
  one_by_one.lse.insert(one_by_one.lse.end(), rest.lse.begin(), rest.lse.end());
  EXPECT_EQ(whole.out, one_by_one.out);
  EXPECT_EQ(whole.lse, one_by_one.lse);
}

// A token has the same bits in every batch, however many rows and runs there are, and whether its
// keys are shared by threads.
TEST_P(PagedKernels, SameBitsInEveryBatch) {
  for (const bool latent : {false, true}) {
    make(heads_of(8, 1, 48, 40), {1100, 70, 130, 1}, latent);
    compute_rows({{0, 0, 1100}, {1, 0, 70}, {2, 0, 130}}, 1);  // stores them
    const Result alone = compute_rows({{0, 1099, 1100}}, 0);
    const auto expect_same = [&](const Result& batch, std::int64_t row, const std::string& what) {
      const auto out = batch.out.begin() + row * std::ssize(alone.out);
      const auto lse = batch.lse.begin() + row * std::ssize(alone.lse);
      EXPECT_TRUE(std::equal(alone.out.begin(), alone.out.end(), out)) << what;
      EXPECT_TRUE(std::equal(alone.lse.begin(), alone.lse.end(), lse)) << what;
    };
    expect_same(compute_rows({{1, 69, 70}, {0, 1099, 1100}, {3, 0, 1}}, 0), 1, "of tokens");
    expect_same(compute_rows({{0, 1070, 1100}}, 0), 29, "of its own");
    expect_same(compute_rows({{2, 0, 130}, {0, 1099, 1100}}, 0), 130, "behind a prompt");
    // A short sequence alone has one part of keys, and beside a long one as many as that.
    const Result short_one = compute_rows({{1, 69, 70}}, 0);
    const Result beside = compute_rows({{0, 1099, 1100}, {1, 69, 70}}, 0);
    EXPECT_TRUE(std::equal(short_one.out.begin(), short_one.out.end(),
                           beside.out.begin() + std::ssize(short_one.out)));
  }
}

// Threads share the keys of a long sequence, whose sums are joined: the same bits as of whole tiles
// that one thread sums.
TEST_P(PagedKernels, LongSequences) {
  for (const bool latent : {false, true}) {
    for (const std::int64_t window : {0, 1500}) {
      make(heads_of(2, 1, 20, latent ? 12 : 24), {2300, 1030}, latent);
      const Result whole = compute_rows({{0, 0, 2300}, {1, 0, 1030}}, window);
      check({{0, 2290, 2300}}, window);
      check({{1, 1020, 1030}}, window);
      for (const std::int64_t row : {1020, 1023, 1024, 1600, 2299}) {
        const Result alone = compute_rows({{0, row, row + 1}}, window);
        const auto out = whole.out.begin() + row * std::ssize(alone.out);
        const auto lse = whole.lse.begin() + row * std::ssize(alone.lse);
        EXPECT_TRUE(std::equal(alone.out.begin(), alone.out.end(), out)) << row;
        EXPECT_TRUE(std::equal(alone.lse.begin(), alone.lse.end(), lse)) << row;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Backends, PagedKernels, all_cases(), case_name);

}  // namespace
}  // namespace moesaic::testing
