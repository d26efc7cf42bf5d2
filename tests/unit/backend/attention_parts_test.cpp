// Protects attention as one primitive: query rows with ranges of their own, keys of other rows than
// the queries', and keys in parts.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "reference/attention.h"
#include "unit/backend/kernel_test.h"

namespace moesaic::testing {
namespace {

using reference::Heads;

constexpr Heads kHeads{4, 2, 10, 6, 0.3};

struct Result {
  Vector out, lse;
  bool operator==(const Result&) const = default;
};

class AttentionParts : public KernelTest {
 protected:
  // Queries, keys and values in tensors of their own, each with columns that are nobody's.
  void make(std::int64_t queries, std::int64_t keys) {
    q_ = random({queries, kHeads.query * kHeads.head_dim}, "q", compute());
    k_ = random({keys, kHeads.key_value * kHeads.head_dim}, "k", compute());
    v_ = random({keys, kHeads.key_value * kHeads.v_dim}, "v", compute());
    q_rows_ = rows_of(q_, {3, kHeads.query, kHeads.head_dim, kHeads.head_dim}, compute());
    keys_ = {rows_of(k_, {1, kHeads.key_value, kHeads.head_dim, kHeads.head_dim}, compute()),
             rows_of(v_, {5, kHeads.key_value, kHeads.v_dim, kHeads.v_dim}, compute())};
  }

  // Values (T, groups width) as groups of a wider matrix of NaN.
  HeadRows rows_of(const Vector& values, const RowGroups& heads, DType dtype) const {
    const std::int64_t width = heads.groups * heads.width;
    const std::int64_t rows = std::ssize(values) / width;
    const std::int64_t columns = heads.first + width + 2;
    Vector wide(rows * columns, std::numeric_limits<double>::quiet_NaN());
    for (std::int64_t t = 0; t < rows; ++t) {
      std::copy_n(values.begin() + t * width, width, wide.begin() + t * columns + heads.first);
    }
    return {upload(wide, {rows, columns}, dtype), heads};
  }
  Vector values_of(const HeadRows& from) const {
    const Vector wide = download(from.rows);
    const std::int64_t columns = from.rows.dim(1);
    Vector values;
    for (std::int64_t t = 0; t < from.rows.dim(0); ++t) {
      const auto begin = wide.begin() + t * columns + from.heads.first;
      values.insert(values.end(), begin, begin + from.heads.groups * from.heads.width);
    }
    return values;
  }

  // The keys [begin, end) as they lie.
  KeyRows part(std::int64_t begin, std::int64_t end) const {
    return {{keys_.k.rows.rows(begin, end - begin), keys_.k.heads},
            {keys_.v.rows.rows(begin, end - begin), keys_.v.heads},
            begin};
  }

  VisibleKeys visible(const Indices& first, const Indices& last, std::int64_t origin = 0) const {
    const std::int64_t rows = std::ssize(first);
    return {.first = upload(first, {rows}),
            .last = upload(last, {rows}),
            .origin = upload(Indices(first.size(), origin), {rows})};
  }

  Result attend(const KeyRows& keys, const VisibleKeys& seen) const {
    const std::int64_t rows = q_rows_.rows.dim(0);
    const Tensor out = poisoned({rows, kHeads.query, kHeads.v_dim}, compute());
    const Tensor lse = poisoned({rows, kHeads.query});
    backend().attention(q_rows_, keys, seen, to_float(kHeads.scale), out, lse);
    return {download(out), download(lse)};
  }

  AttentionSums sums() const {
    const std::int64_t rows = q_rows_.rows.dim(0);
    return {poisoned({rows, kHeads.query, kHeads.v_dim}), poisoned({rows, kHeads.query}),
            poisoned({rows, kHeads.query})};
  }
  Result result_of(const AttentionSums& sums) const {
    const Tensor out = poisoned(sums.values.shape(), compute());
    const Tensor lse = poisoned(sums.top.shape());
    backend().attention_result(sums, to_float(kHeads.scale), out, lse);
    return {download(out), download(lse)};
  }

  // One after the other, each taken further from the one before; or each begun, and merged.
  Result in_parts(const Indices& cuts, const VisibleKeys& seen, bool merged) const {
    const AttentionSums all = sums();
    for (std::size_t i = 0; i + 1 < cuts.size(); ++i) {
      const bool begins = i == 0 || merged;
      const AttentionSums to = begins && i > 0 ? sums() : all;
      backend().attention_part(q_rows_, part(cuts[i], cuts[i + 1]), seen, to_float(kHeads.scale),
                               to, begins ? Write::kOverwrite : Write::kAdd);
      if (begins && i > 0) {
        backend().merge_attention(to, to_float(kHeads.scale), all);
      }
    }
    return result_of(all);
  }

  // Values and scores are of the size of 1. -inf is its own neighbour.
  static void expect_near(const Vector& actual, const Vector& expected, double tolerance,
                          const std::string& what) {
    ASSERT_EQ(actual.size(), expected.size()) << what;
    double most = 0.0;
    for (std::size_t i = 0; i < expected.size(); ++i) {
      const bool same = actual[i] == expected[i];
      most = std::max(most, same ? 0.0 : std::abs(actual[i] - expected[i]));
      ASSERT_FALSE(std::isnan(actual[i])) << what;
    }
    EXPECT_LE(most, tolerance) << what;
  }
  static void expect_near(const Result& actual, const Result& expected, double tolerance,
                          const std::string& what) {
    expect_near(actual.out, expected.out, tolerance, "out of " + what);
    expect_near(actual.lse, expected.lse, tolerance, "lse of " + what);
  }

  // For sums in another order.
  double order_tolerance() const { return compute() == DType::kF32 ? 1e-6 : tolerance(); }

  Vector q_, k_, v_;
  HeadRows q_rows_;
  KeyRows keys_;
};

// Odd ranges in no order: all keys, one, none, the last ones.
struct Ranges {
  Indices first, last;
};
Ranges odd_ranges(std::int64_t queries, std::int64_t keys) {
  Ranges ranges;
  for (std::int64_t t = 0; t < queries; ++t) {
    const std::int64_t a = (37 * t + 11) % keys;
    const std::int64_t b = (53 * t * t + 5) % keys;
    const std::int64_t kind = t % 7;
    ranges.first.push_back(kind == 0 ? 0 : kind == 1 ? keys : std::min(a, b));
    ranges.last.push_back(kind == 0   ? keys
                          : kind == 1 ? 0
                          : kind == 2 ? std::min(a, b) + 1
                                      : std::max(a, b));
  }
  return ranges;
}

TEST_P(AttentionParts, AnyRangesOfOtherRows) {
  for (const auto& [queries, keys] : std::initializer_list<std::pair<std::int64_t, std::int64_t>>{
           {3, 7}, {5, 300}, {70, 33}, {150, 200}, {200, 65}}) {
    make(queries, keys);
    const Ranges odd = odd_ranges(queries, keys);
    const VisibleKeys seen = visible(odd.first, odd.last);
    const std::string what = fmt::format("{} rows, {} keys", queries, keys);
    const auto expected = reference::attention(q_, k_, v_, kHeads, odd.first, odd.last);
    const Result actual = attend(keys_, seen);
    expect_near(actual, {expected.out, expected.lse}, 2.0 * tolerance(), what);

    const Vector dout = random({queries, kHeads.query, kHeads.v_dim}, "dout", compute());
    const auto to = [&](std::int64_t rows, const RowGroups& heads) {
      return HeadRows{poisoned({rows, heads.groups * heads.width + 4}, compute()), heads};
    };
    const AttentionGradients gradients{
        to(queries, {2, kHeads.query, kHeads.head_dim, kHeads.head_dim}),
        to(keys, {0, kHeads.key_value, kHeads.head_dim, kHeads.head_dim}),
        to(keys, {4, kHeads.key_value, kHeads.v_dim, kHeads.v_dim})};
    backend().attention_backward(
        upload(dout, {queries, kHeads.query, kHeads.v_dim}, compute()), q_rows_, keys_, seen,
        to_float(kHeads.scale),
        upload(actual.out, {queries, kHeads.query, kHeads.v_dim}, compute()),
        upload(actual.lse, {queries, kHeads.query}), gradients, Write::kOverwrite);
    const auto d = reference::attention_backward(dout, q_, k_, v_, kHeads, odd.first, odd.last);
    expect_close(values_of(gradients.dq), d.dq, 6.0 * tolerance(), "dq of " + what);
    expect_close(values_of(gradients.dk), d.dk, 6.0 * tolerance(), "dk of " + what);
    expect_close(values_of(gradients.dv), d.dv, 6.0 * tolerance(), "dv of " + what);
  }
}

// What is seen in one to seven parts is what is seen at once: within rounding wherever they are cut
// and in either way, and bit for bit where each is taken further at a border of tiles.
TEST_P(AttentionParts, OneToSevenParts) {
  constexpr std::int64_t kQueries = 90, kKeys = 500;
  make(kQueries, kKeys);
  const Ranges odd = odd_ranges(kQueries, kKeys);
  Ranges causal;
  for (std::int64_t t = 0; t < kQueries; ++t) {
    causal.first.push_back(t < 40 ? 0 : 130);
    causal.last.push_back(kKeys - kQueries + t + 1);
  }
  for (const Ranges& ranges : {odd, causal}) {
    const VisibleKeys seen = visible(ranges.first, ranges.last);
    const Result whole = attend(keys_, seen);
    for (std::int64_t parts = 1; parts <= 7; ++parts) {
      Indices at_tiles, anywhere;
      for (std::int64_t i = 0; i <= parts; ++i) {
        const std::int64_t cut = kKeys * i / parts;
        at_tiles.push_back(i == parts ? kKeys : cut / kKeyTile * kKeyTile);
        anywhere.push_back(cut);
      }
      const std::string what = fmt::format("{} parts", parts);
      EXPECT_TRUE(in_parts(at_tiles, seen, false) == whole) << what;
      expect_near(in_parts(anywhere, seen, false), whole, order_tolerance(), what);
      expect_near(in_parts(anywhere, seen, true), whole, order_tolerance(), what + " merged");
      expect_near(in_parts(at_tiles, seen, true), whole, order_tolerance(), what + " merged");
    }
  }
}

// The gradients of the parts of the keys add up to those of all.
TEST_P(AttentionParts, GradientsOfParts) {
  constexpr std::int64_t kQueries = 90, kKeys = 300;
  make(kQueries, kKeys);
  const Ranges odd = odd_ranges(kQueries, kKeys);
  const VisibleKeys seen = visible(odd.first, odd.last);
  const Result result = attend(keys_, seen);
  const Shape wide{kQueries, kHeads.query, kHeads.v_dim};
  const Tensor dout =
      upload(random({wide[0], wide[1], wide[2]}, "dout", compute()), wide, compute());
  const Tensor out = upload(result.out, wide, compute());
  const Tensor lse = upload(result.lse, {kQueries, kHeads.query});
  const RowGroups q_heads{0, kHeads.query, kHeads.head_dim, kHeads.head_dim};
  const RowGroups k_heads{0, kHeads.key_value, kHeads.head_dim, kHeads.head_dim};
  const RowGroups v_heads{0, kHeads.key_value, kHeads.v_dim, kHeads.v_dim};
  const auto zeros = [&](std::int64_t rows, const RowGroups& heads) {
    return HeadRows{
        upload(Vector(rows * heads.groups * heads.width, 0.0), {rows, heads.groups * heads.width}),
        heads};
  };
  const auto gradients = [&](const Indices& cuts) {
    const AttentionGradients all{zeros(kQueries, q_heads), zeros(kKeys, k_heads),
                                 zeros(kKeys, v_heads)};
    for (std::size_t i = 0; i + 1 < cuts.size(); ++i) {
      const std::int64_t count = cuts[i + 1] - cuts[i];
      backend().attention_backward(dout, q_rows_, part(cuts[i], cuts[i + 1]), seen,
                                   to_float(kHeads.scale), out, lse,
                                   {all.dq,
                                    {all.dk.rows.rows(cuts[i], count), k_heads},
                                    {all.dv.rows.rows(cuts[i], count), v_heads}},
                                   Write::kAdd);
    }
    return std::array{download(all.dq.rows), download(all.dk.rows), download(all.dv.rows)};
  };
  const auto whole = gradients({0, kKeys});
  // With bf16 dot products P and dS are rounded before they meet the keys, wherever these are cut.
  for (const Indices& cuts :
       {Indices{0, 64, kKeys}, Indices{0, 128, 192, 256, kKeys}, Indices{0, 50, 51, 222, kKeys}}) {
    const auto parts = gradients(cuts);
    for (std::size_t i = 0; i < whole.size(); ++i) {
      expect_close(parts[i], whole[i], 2e-6,
                   fmt::format("{} of {} parts",
                               i == 0   ? "dq"
                               : i == 1 ? "dk"
                                        : "dv",
                               cuts.size() - 1));
    }
  }
}

// A row's bits depend on its origin, its range and what lies in it: not on where that is, nor on
// the rows beside it.
TEST_P(AttentionParts, OriginRangeKeysAndValuesAlone) {
  constexpr std::int64_t kQueries = 70, kKeys = 200, kMoved = 37;
  make(kQueries, kMoved + kKeys);
  Ranges here;
  for (std::int64_t t = 0; t < kQueries; ++t) {
    here.first.push_back(kMoved + t % 5);
    here.last.push_back(kMoved + kKeys - t);
  }
  const Result whole = attend(keys_, visible(here.first, here.last, kMoved));
  // The same keys from row 0 on.
  Indices first = here.first, last = here.last;
  for (std::size_t t = 0; t < first.size(); ++t) {
    first[t] -= kMoved;
    last[t] -= kMoved;
  }
  KeyRows moved = part(kMoved, kMoved + kKeys);
  moved.begin = 0;
  EXPECT_TRUE(attend(moved, visible(first, last)) == whole);
  // Every row alone.
  const Tensor all = q_rows_.rows;
  for (const std::int64_t t : {0, 1, 31, 69}) {
    const auto at = static_cast<std::size_t>(t);
    q_rows_.rows = all.rows(t, 1);
    const Result one = attend(keys_, visible({here.first[at]}, {here.last[at]}, kMoved));
    const std::int64_t width = kHeads.query * kHeads.v_dim;
    const auto from = whole.out.begin() + t * width;
    EXPECT_EQ(one.out, Vector(from, from + width)) << "row " << t;
    q_rows_.rows = all;
  }
}

// Keys that are rotated within their page alone, met by a query rotated by its distance from the
// beginning of each page, give what true positions do: a page may be used wherever it stands.
TEST_P(AttentionParts, RotationRelativeToThePage) {
  if (compute() != DType::kF32) {
    GTEST_SKIP() << "rotated keys are rounded to bf16, here and there differently";
  }
  constexpr std::int64_t kTokens = 400;
  make(kTokens, kTokens);
  const std::int64_t half = kHeads.head_dim / 2;
  Vector frequency;
  for (std::int64_t i = 0; i < half; ++i) {
    frequency.push_back(
        std::pow(1e4, -2.0 * static_cast<double>(i) / static_cast<double>(kHeads.head_dim)));
  }
  const Tensor frequencies = upload(frequency, {half});
  const auto rotated = [&](const Vector& x, std::int64_t heads, const Indices& position) {
    const RowGroups groups{0, heads, kHeads.head_dim, kHeads.head_dim};
    const Tensor rows = upload(x, {kTokens, heads * kHeads.head_dim});
    backend().rope(rows, groups, upload(position, {kTokens}), frequencies, {}, Direction::kForward);
    return HeadRows{rows, groups};
  };
  Indices position(kTokens), in_page(kTokens), first(kTokens, 0), last(kTokens);
  for (std::int64_t t = 0; t < kTokens; ++t) {
    const auto at = static_cast<std::size_t>(t);
    position[at] = t;
    in_page[at] = t % kPageTokens;
    last[at] = t + 1;
  }
  const VisibleKeys seen = visible(first, last);
  q_rows_ = rotated(q_, kHeads.query, position);
  keys_.k = rotated(k_, kHeads.key_value, position);
  const Result expected = attend(keys_, seen);
  keys_.k = rotated(k_, kHeads.key_value, in_page);
  const AttentionSums all = sums();
  for (std::int64_t page = 0; page * kPageTokens < kTokens; ++page) {
    Indices distance = position;
    for (std::int64_t& p : distance) {
      p -= page * kPageTokens;
    }
    const std::int64_t end = std::min((page + 1) * kPageTokens, kTokens);
    backend().attention_part(rotated(q_, kHeads.query, distance), part(page * kPageTokens, end),
                             seen, to_float(kHeads.scale), all,
                             page == 0 ? Write::kOverwrite : Write::kAdd);
  }
  expect_near(result_of(all), expected, 1e-5, "pages");
}

INSTANTIATE_TEST_SUITE_P(Backends, AttentionParts, all_cases(), case_name);

}  // namespace
}  // namespace moesaic::testing
