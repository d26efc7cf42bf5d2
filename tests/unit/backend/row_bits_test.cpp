// Protects the bits of kernels on rows: forward, a row has them at every place among any number of
// rows; a call that is made again has them again; and rows of every width are whole.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include "reference/embedding.h"
#include "reference/norm.h"
#include "reference/rope.h"
#include "reference/rows.h"
#include "unit/backend/kernel_test.h"

namespace moesaic::testing {
namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr float kEps = 1e-5F;

/// Widths that a few lanes, a warp, and a block have, and more; with whole vectors and without.
constexpr std::initializer_list<std::int64_t> kWidths = {24,   200,  264,  523, 1032,
                                                         2056, 5000, 8200, 8203};

Vector rows_of(const Vector& x, std::int64_t width, std::int64_t first, std::int64_t count) {
  return {x.begin() + first * width, x.begin() + (first + count) * width};
}

class WideRows : public KernelTest {};
class RowBits : public KernelTest {
 protected:
  /// of(x (rows, width)): a tensor with as many rows. Rows alone, and few of them, get what they
  /// get among all.
  void expect_same_at_every_place(std::int64_t width, const std::function<Tensor(Tensor)>& of,
                                  const std::string& what, DType dtype) const {
    constexpr std::int64_t kRows = 21;
    const Vector x = random({kRows, width}, "x", dtype);
    const Vector all = download(of(upload(x, {kRows, width}, dtype)));
    const std::int64_t out = std::ssize(all) / kRows;
    for (const auto& [first, count] :
         {std::pair<int, int>{0, 1}, {1, 1}, {20, 1}, {3, 2}, {5, 9}}) {
      const Tensor some = upload(rows_of(x, width, first, count), {count, width}, dtype);
      EXPECT_EQ(download(of(some)), rows_of(all, out, first, count))
          << fmt::format("{} of width {}: {} rows from {} on", what, width, count, first);
    }
  }
};

TEST_P(RowBits, NormsGatesAndRotations) {
  for (const std::int64_t width : {24, 37, 264, 1032, 2056}) {
    const Tensor weight = upload(random({width}, "weight"), {width});
    const auto norm = [&](const Tensor& x) {
      const Tensor y = poisoned(x.shape(), compute());
      backend().rms_norm(x, weight, kEps, y, poisoned({x.dim(0)}));
      return y;
    };
    expect_same_at_every_place(width, norm, "rms_norm", DType::kF32);
    const auto group_norm = [&](const Tensor& x) {
      const RowGroups whole{0, 1, 0, width};
      const Tensor squares = poisoned({x.dim(0), 1});
      backend().group_squares(x, whole, squares);
      backend().group_norm(x, whole, squares, static_cast<float>(width), kEps, weight, x);
      return x;
    };
    expect_same_at_every_place(width, group_norm, "group_norm", compute());
    const auto gate = [&](const Tensor& x) {
      const Tensor y = poisoned({x.dim(0), width / 2}, compute());
      backend().swiglu(x, 0.0F, y);
      return y;
    };
    expect_same_at_every_place(width / 2 * 2, gate, "swiglu", compute());
  }
}

TEST_P(RowBits, CombinedRows) {
  constexpr std::int64_t kTokens = 13;
  constexpr std::int64_t kDim = 264;
  const Vector rows = random({40, kDim}, "rows", compute());
  const Indices position = random_indices(kTokens * 6, 40, "position");
  const Vector weight = random({kTokens, 6}, "weight");
  const auto combine = [&](std::int64_t first, std::int64_t count) {
    const Tensor y = poisoned({count, kDim});
    backend().combine_rows(
        upload(rows, {40, kDim}, compute()),
        upload(Indices(position.begin() + first * 6, position.begin() + (first + count) * 6),
               {count, 6}),
        upload(rows_of(weight, 6, first, count), {count, 6}), y);
    return download(y);
  };
  const Vector all = combine(0, kTokens);
  EXPECT_EQ(combine(7, 1), rows_of(all, kDim, 7, 1));
  EXPECT_EQ(combine(4, 9), rows_of(all, kDim, 4, 9));
}

// Sums over rows are taken in parts.
TEST_P(RowBits, SumsAreTheSameAgain) {
  constexpr std::int64_t kRows = 700;
  constexpr std::int64_t kWidth = 24;
  const Vector dy = random({kRows, kWidth}, "dy", compute());
  const Vector x = random({kRows, kWidth}, "x", compute());
  const Indices token = random_indices(kRows, 9, "token");
  const Tensor weight = upload(random({kWidth}, "weight"), {kWidth});
  const Tensor there = upload(x, {kRows, kWidth}, compute());
  const auto gradients = [&] {
    const RowGroups groups{0, 3, 8, 8};
    const Tensor squares = poisoned({kRows, 3});
    const Tensor dots = poisoned({kRows, 3});
    const Tensor dgroup = upload(Vector(8, 0.5), {8});
    const Tensor dtable = upload(Vector(9 * kWidth, 0.5), {9, kWidth});
    const Tensor dbias = upload(Vector(kWidth, 0.5), {kWidth});
    const Tensor dnorm = upload(Vector(kWidth, 0.5), {kWidth});
    const Tensor gradient = upload(dy, {kRows, kWidth}, compute());
    const Tensor wide = upload(dy, {kRows, kWidth});
    const Tensor ones = upload(Vector(kRows, 1.0), {kRows});
    backend().bias_backward(gradient, Tensor(), dbias);
    backend().embedding_backward(wide, upload(token, {kRows}), dtable);
    backend().rms_norm_backward(wide, upload(x, {kRows, kWidth}), weight, ones,
                                poisoned({kRows, kWidth}), dnorm);
    backend().group_squares(there, groups, squares);
    backend().group_dots(gradient, there, groups, weight, dots);
    backend().group_norm_backward(gradient, there, groups, squares, dots, 8.0F, kEps, weight,
                                  dgroup);
    Vector all;
    for (const Tensor& sum : {dbias, dtable, dnorm, dgroup}) {
      const Vector values = download(sum);
      all.insert(all.end(), values.begin(), values.end());
    }
    return all;
  };
  EXPECT_EQ(gradients(), gradients());
}

TEST_P(WideRows, RmsNorm) {
  for (const std::int64_t width : kWidths) {
    constexpr std::int64_t kRows = 5;
    const Shape shape{kRows, width};
    const Vector x = random({kRows, width}, "x");
    const Vector weight = random({width}, "weight");
    const Vector dy = random({kRows, width}, "dy");
    const Tensor y = poisoned(shape, compute());
    const Tensor rstd = poisoned({kRows});
    const Tensor dx = poisoned(shape);
    const Tensor dweight = upload(weight, {width});
    const Tensor weights = upload(weight, {width});
    backend().rms_norm(upload(x, shape), weights, kEps, y, rstd);
    backend().rms_norm_backward(upload(dy, shape), upload(x, shape), weights, rstd, dx, dweight);
    const auto expected = reference::rms_norm_backward(dy, x, weight, kEps);
    const std::string what = fmt::format("of width {}", width);
    expect_close(download(y), reference::rms_norm(x, weight, kEps).y, tolerance(), "y " + what);
    expect_close(download(dx), expected.dx, 2e-5, "dx " + what);
    expect_close(download(dweight), sum(weight, expected.dweight), 2e-5, "dweight " + what);
  }
}

TEST_P(WideRows, GroupNorm) {
  for (const std::int64_t width : kWidths) {
    constexpr std::int64_t kRows = 3;
    const reference::Groups g{
        .row = 2 * width + 16, .first = 8, .groups = 2, .stride = width, .width = width};
    const RowGroups groups{g.first, g.groups, g.stride, g.width};
    const Shape shape{kRows, g.row};
    const Vector x = random({kRows, g.row}, "x", compute());
    const Vector dy = random({kRows, g.row}, "dy", compute());
    const Vector weight = random({width}, "weight");
    const Tensor there = upload(x, shape, compute());
    const Tensor weights = upload(weight, {width});
    const Tensor dweight = upload(weight, {width});
    const Tensor y = upload(x, shape, compute());
    const Tensor dx = upload(dy, shape, compute());
    const Tensor squares = poisoned({kRows, 2});
    const Tensor dots = poisoned({kRows, 2});
    const auto count = static_cast<float>(width);
    backend().group_squares(there, groups, squares);
    backend().group_norm(there, groups, squares, count, kEps, weights, y);
    backend().group_dots(dx, there, groups, weights, dots);
    backend().group_norm_backward(dx, there, groups, squares, dots, count, kEps, weights, dweight);
    const auto expected = reference::group_norm_backward(dy, x, g, weight, kEps);
    const std::string what = fmt::format("of width {}", width);
    expect_close(download(y), reference::group_norm(x, g, weight, kEps), tolerance(), "y " + what);
    expect_close(download(dx), expected.dx, tolerance(), "dx " + what);
    expect_close(download(dweight), sum(weight, expected.dweight), 2e-5, "dweight " + what);
  }
}

TEST_P(WideRows, GroupsOfWholeVectors) {
  const reference::Groups g{.row = 96, .first = 16, .groups = 2, .stride = 40, .width = 32};
  const Vector x = random({3, 96}, "x", compute());
  const Indices position = {0, 7, 300};
  for (const bool interleave : {false, true}) {
    const reference::Rotation rotation{reference::plain_frequencies(32, 10000.0), interleave};
    const Tensor there = upload(x, {3, 96}, compute());
    backend().rope(there, {16, 2, 40, 32}, upload(position, {3}), upload(rotation.frequency, {16}),
                   {interleave}, Direction::kForward);
    expect_close(download(there), reference::rope(x, g, position, rotation), tolerance() + 3e-5,
                 "rotated");
  }
  for (const DType to : {DType::kF32, compute()}) {
    const Tensor there = upload(x, {3, 96}, compute());
    const Tensor copied = upload(Vector(3 * 128, 1.0), {3, 128}, to);
    const Tensor summed = upload(Vector(3 * 40, 1.0), {3, 40}, to);
    backend().copy_groups(there, {16, 2, 40, 32}, copied, {8, 2, 56, 32}, Write::kAdd);
    backend().copy_groups(there, {16, 2, 40, 32}, summed, {8, 2, 0, 32}, Write::kAdd);
    Vector copies(3 * 128, 1.0);
    Vector sums(3 * 40, 1.0);
    for (std::size_t t = 0; t < 3; ++t) {
      for (std::size_t i = 0; i < 64; ++i) {
        const double value = x[t * 96 + 16 + i / 32 * 40 + i % 32];
        copies[t * 128 + 8 + i / 32 * 56 + i % 32] += value;
        sums[t * 40 + 8 + i % 32] += value;
      }
    }
    expect_close(download(copied), copies, tolerance(), "copies");
    expect_close(download(summed), sums, tolerance(), "sums");
  }
}

TEST_P(WideRows, WhatDoesNotExistIsNotRead) {
  constexpr std::int64_t kDim = 40;
  Vector rows = random({3, kDim}, "rows", compute());
  std::fill_n(rows.begin() + kDim, kDim, kNaN);  // a row that nobody has
  const Vector dy = random({2, kDim}, "dy");
  const Indices position = {0, -1, -1, 2, -1, -1, -1, -1, -1, -1};
  const Tensor there = upload(rows, {3, kDim}, compute());
  const Tensor at = upload(position, {2, 5});
  const Vector weight = {0.5, kNaN, kNaN, 2.0, kNaN, kNaN, kNaN, kNaN, kNaN, kNaN};
  const Tensor weights = upload(weight, {2, 5});
  const Tensor y = poisoned({2, kDim});
  const Tensor drows = upload(Vector(3 * kDim, 7.0), {3, kDim}, compute());
  const Tensor dweight = poisoned({2, 5});
  backend().combine_rows(there, at, weights, y);
  backend().combine_rows_backward(upload(dy, {2, kDim}), there, at, weights, drows, dweight);
  Vector expected(2 * kDim, 0.0);
  for (std::size_t i = 0; i < kDim; ++i) {
    expected[i] = 0.5 * rows[i] + 2.0 * rows[2 * kDim + i];
  }
  expect_close(download(y), expected, 2e-5, "y");
  EXPECT_EQ(rows_of(download(drows), kDim, 1, 1), Vector(kDim, 7.0));
  const Vector got = download(dweight);
  EXPECT_TRUE(std::isfinite(got[0]) && std::isfinite(got[3]));
  for (const std::size_t none : {1, 2, 4, 5, 6, 7, 8, 9}) {
    EXPECT_EQ(got[none], 0.0);
  }
}

// Rows before the first offset and behind the last one belong to nobody; groups may be empty.
TEST_P(WideRows, BiasesOfSomeRows) {
  constexpr std::int64_t kGroups = 6;
  for (const std::int64_t rows : {30, 1500}) {
    for (const std::int64_t dim : {37, 264, 600}) {
      const Indices offsets = {3, 3, 7, 7, 20, rows - 5, rows - 5};
      const Vector y = random({rows, dim}, "y", compute());
      const Vector bias = random({kGroups, dim}, "bias", compute());
      Vector read(y.size(), kNaN);
      Vector shifted = y;
      Vector gradient = bias;
      for (std::int64_t g = 0; g < kGroups; ++g) {
        for (std::int64_t i = 0; i < dim; ++i) {
          const auto of_bias = static_cast<std::size_t>(g * dim + i);
          for (std::int64_t t = offsets[static_cast<std::size_t>(g)];
               t < offsets[static_cast<std::size_t>(g) + 1]; ++t) {
            const auto at = static_cast<std::size_t>(t * dim + i);
            read[at] = y[at];
            shifted[at] += bias[of_bias];
            gradient[of_bias] += y[at];
          }
        }
      }
      const Tensor at = upload(offsets, {kGroups + 1});
      const Tensor there = upload(y, {rows, dim}, compute());
      const Tensor dbias = upload(bias, {kGroups, dim});
      backend().add_bias(there, at, upload(bias, {kGroups, dim}));
      backend().bias_backward(upload(read, {rows, dim}, compute()), at, dbias);
      const std::string what = fmt::format("({}, {})", rows, dim);
      expect_close(download(there), shifted, tolerance(), "y " + what);
      expect_close(download(dbias), gradient, 2e-5, "dbias " + what);
    }
  }
}

TEST_P(WideRows, GatherLeavesRowsAlone) {
  for (const std::int64_t dim : {1, 3, 8, 300, 1200}) {
    const Vector x = random({5, dim}, "x", compute());
    const Tensor y = upload(Vector(static_cast<std::size_t>(4 * dim), 7.0), {4, dim}, compute());
    backend().gather_rows(upload(x, {5, dim}, compute()), upload(Indices{4, -1, 0, 0}, {4}), y);
    const Vector got = download(y);
    EXPECT_EQ(rows_of(got, dim, 0, 1), rows_of(x, dim, 4, 1));
    EXPECT_EQ(rows_of(got, dim, 1, 1), Vector(static_cast<std::size_t>(dim), 7.0));
    EXPECT_EQ(rows_of(got, dim, 2, 1), rows_of(x, dim, 0, 1));
    EXPECT_EQ(rows_of(got, dim, 3, 1), rows_of(x, dim, 0, 1));
  }
}

// Tokens of one kind in one block of the sorted ones and in many, kinds of more than a digit, and
// tokens of none.
TEST_P(WideRows, GradientsOfManyTokens) {
  constexpr std::int64_t kTokens = 700;
  constexpr std::int64_t kKinds = 1500;
  for (const std::int64_t dim : {8, 11}) {
    for (const std::int64_t kinds : {std::int64_t{1}, std::int64_t{20}, kKinds}) {
      Indices token = random_indices(kTokens, kinds, "token");
      Vector dy = random({kTokens, dim}, "dy");
      for (std::int64_t t = 3; t < kTokens; t += 50) {
        token[static_cast<std::size_t>(t)] = t % 100 == 3 ? -1 : kKinds;
      }
      const Vector before = random({kKinds, dim}, "before");
      const Tensor dtable = upload(before, {kKinds, dim});
      backend().embedding_backward(upload(dy, {kTokens, dim}), upload(token, {kTokens}), dtable);
      for (std::int64_t t = 3; t < kTokens; t += 50) {
        token[static_cast<std::size_t>(t)] = 0;
        std::fill_n(dy.begin() + t * dim, dim, 0.0);
      }
      expect_close(download(dtable),
                   sum(before, reference::embedding_backward(dy, token, kKinds, dim)), 2e-5,
                   fmt::format("dtable of {} kinds, dim {}", kinds, dim));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Backends, RowBits, all_cases(), case_name);
INSTANTIATE_TEST_SUITE_P(Backends, WideRows, all_cases(), case_name);

}  // namespace
}  // namespace moesaic::testing
