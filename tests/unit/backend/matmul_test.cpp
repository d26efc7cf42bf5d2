// Protects the matrix products: transposes, odd sizes, output dtypes, adding, groups, rows of
// nobody, and that a row's bits depend on the row alone.
#include "reference/matmul.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "unit/backend/kernel_test.h"

namespace moesaic::testing {
namespace {

class MatmulKernels : public KernelTest {
 protected:
  static Shape shape_of(Transpose transpose, std::int64_t rows, std::int64_t columns) {
    return transpose == Transpose::kNo ? Shape{rows, columns} : Shape{columns, rows};
  }

  void check(std::array<std::int64_t, 3> mnk, Transpose ta, Transpose tb, DType out, Write write) {
    const auto [m, n, k] = mnk;
    const Vector a = random({m, k}, "a", compute());
    const Vector b = random({k, n}, "b", compute());
    const Vector before = random({m, n}, "before");
    Vector expected =
        reference::matmul(a, ta == Transpose::kYes, b, tb == Transpose::kYes, m, n, k);
    const bool add = write == Write::kAdd;
    const Tensor c = add ? upload(before, {m, n}) : poisoned({m, n}, out);
    backend().matmul(upload(a, shape_of(ta, m, k), compute()), ta,
                     upload(b, shape_of(tb, k, n), compute()), tb, c, write);
    expect_close(download(c), add ? sum(expected, before) : expected, tolerance_of(out),
                 fmt::format("({}, {}, {}) transposed {} {} into {}, add {}", m, n, k,
                             ta == Transpose::kYes, tb == Transpose::kYes, name_of(out), add));
  }
};

constexpr std::array<std::array<std::int64_t, 3>, 11> kProblems = {{{1, 1, 1},
                                                                    {3, 17, 5},
                                                                    {65, 33, 70},
                                                                    {130, 48, 19},
                                                                    {29, 31, 1043},
                                                                    {15, 600, 3},
                                                                    {130, 70, 513},
                                                                    {17, 1, 130},
                                                                    {0, 5, 7},
                                                                    {7, 5, 0},
                                                                    {5, 0, 7}}};

TEST_P(MatmulKernels, MatchesForEveryTransposeAndSize) {
  for (const auto& problem : kProblems) {
    for (const Transpose ta : {Transpose::kNo, Transpose::kYes}) {
      for (const Transpose tb : {Transpose::kNo, Transpose::kYes}) {
        check(problem, ta, tb, DType::kF32, Write::kOverwrite);
        check(problem, ta, tb, DType::kF32, Write::kAdd);
        check(problem, ta, tb, compute(), Write::kOverwrite);
      }
    }
  }
}

// Groups of many rows, one row and none; the whole on one group; no row at all.
std::array<Indices, 4> group_offsets() {
  return {{{0, 65, 65, 66, 83}, {0, 0, 0, 300, 300}, {0, 0, 0, 0, 0}, {0, 3, 20, 21, 64}}};
}
constexpr std::int64_t kN = 19;
constexpr std::int64_t kM = 37;

TEST_P(MatmulKernels, GroupedForward) {
  for (const Indices& offsets : group_offsets()) {
    const std::int64_t rows = offsets.back();
    const Vector x = random({rows, kM}, "x", compute());
    const Vector w = random({4, kN, kM}, "w", compute());
    const Tensor y = poisoned({rows, kN}, compute());
    backend().grouped_matmul(upload(x, {rows, kM}, compute()), upload_offsets(offsets),
                             upload(w, {4, kN, kM}, compute()), y);
    expect_close(download(y), reference::grouped_matmul(x, offsets, w, kN, kM), tolerance(), "y");
  }
}

TEST_P(MatmulKernels, GroupedBackward) {
  for (const Indices& offsets : group_offsets()) {
    const std::int64_t rows = offsets.back();
    const Vector x = random({rows, kM}, "x", compute());
    const Vector w = random({4, kN, kM}, "w", compute());
    const Vector dy = random({rows, kN}, "dy", compute());
    const Vector before = random({4, kN, kM}, "before");
    const Tensor dx = poisoned({rows, kM}, compute());
    const Tensor dw = upload(before, {4, kN, kM});
    const Tensor dy_there = upload(dy, {rows, kN}, compute());
    backend().grouped_matmul_dx(dy_there, upload_offsets(offsets),
                                upload(w, {4, kN, kM}, compute()), dx);
    backend().grouped_matmul_dw(dy_there, upload(x, {rows, kM}, compute()), upload_offsets(offsets),
                                dw);
    expect_close(download(dx), reference::grouped_matmul_dx(dy, offsets, w, kN, kM), tolerance(),
                 "dx");
    expect_close(download(dw), sum(before, reference::grouped_matmul_dw(dy, x, offsets, kN, kM)),
                 2e-5, "dw");
  }
}

// What a sum over k leaves over of vectors, tiles and parts.
TEST_P(MatmulKernels, MatchesForEveryRemainderOfDepth) {
  for (std::int64_t k = 8; k <= 16; ++k) {
    for (const Transpose ta : {Transpose::kNo, Transpose::kYes}) {
      for (const Transpose tb : {Transpose::kNo, Transpose::kYes}) {
        check({24, 16, k}, ta, tb, DType::kF32, Write::kOverwrite);
        check({40, 8, 256 + k}, ta, tb, compute(), Write::kOverwrite);
      }
    }
  }
  check({5, 8, 4099}, Transpose::kNo, Transpose::kYes, DType::kF32, Write::kOverwrite);
  check({8, 16, 4099}, Transpose::kYes, Transpose::kNo, DType::kF32, Write::kAdd);
}

// Groups without rows at the beginning, in the middle, at the end and everywhere; rows of nobody
// before the first group and behind the last; more groups than a warp has lanes.
struct Layout {
  Indices offsets;
  std::int64_t rows;
};

std::vector<Layout> layouts() {
  std::vector<Layout> all = {{{0, 0, 5, 9, 12}, 12},   {{0, 7, 7, 7, 40}, 40},
                             {{0, 3, 20, 33, 33}, 33}, {{0, 0, 0, 0, 0}, 6},
                             {{0, 1, 18, 83, 90}, 99}, {{4, 4, 21, 150, 151}, 160},
                             {{9, 9, 9, 9, 9}, 12}};
  Indices many = {2};
  for (std::int64_t g = 0; g < 70; ++g) {
    many.push_back(many.back() + (g % 5 == 1 ? 0 : g % 7 == 3 ? 19 : g % 3));
  }
  const std::int64_t rows = many.back() + 3;
  all.push_back({many, rows});
  return all;
}

class MatmulGroups : public KernelTest {
 protected:
  // (rows, width); NaN where a row is nobody's.
  static Vector values(const Layout& layout, std::int64_t width, std::string_view name,
                       DType dtype) {
    Vector all = random({layout.rows, width}, name, dtype);
    const auto begin = layout.offsets.front() * width;
    const auto end = layout.offsets.back() * width;
    for (std::int64_t i = 0; i < std::ssize(all); ++i) {
      if (i < begin || i >= end) {
        all[static_cast<std::size_t>(i)] = std::numeric_limits<double>::quiet_NaN();
      }
    }
    return all;
  }

  // The rows of groups are as expected, the others as they were: NaN.
  void expect_rows(const Layout& layout, const Tensor& actual, const Vector& expected) const {
    const Vector all = download(actual);
    const std::int64_t width = actual.dim(1);
    const auto begin = all.begin() + layout.offsets.front() * width;
    const auto end = all.begin() + layout.offsets.back() * width;
    const auto is_nan = [](double value) { return std::isnan(value); };
    EXPECT_TRUE(std::all_of(all.begin(), begin, is_nan) && std::all_of(end, all.end(), is_nan));
    expect_close({begin, end}, expected, tolerance_of(actual.dtype()), "rows of groups");
  }
};

TEST_P(MatmulGroups, RowsOfNobodyAreNeitherReadNorWritten) {
  for (const auto& [n, m] : {std::pair<std::int64_t, std::int64_t>{19, 37}, {24, 40}}) {
    for (const Layout& layout : layouts()) {
      const std::int64_t groups = std::ssize(layout.offsets) - 1;
      const Vector x = values(layout, m, "x", compute());
      const Vector dy = values(layout, n, "dy", compute());
      const Vector w = random({groups, n, m}, "w", compute());
      const Vector before = random({groups, n, m}, "before");
      const Tensor offsets = upload_offsets(layout.offsets);
      const Tensor x_there = upload(x, {layout.rows, m}, compute());
      const Tensor dy_there = upload(dy, {layout.rows, n}, compute());
      const Tensor w_there = upload(w, {groups, n, m}, compute());
      for (const DType out : {DType::kF32, compute()}) {
        const Tensor y = poisoned({layout.rows, n}, out);
        const Tensor dx = poisoned({layout.rows, m}, out);
        backend().grouped_matmul(x_there, offsets, w_there, y);
        backend().grouped_matmul_dx(dy_there, offsets, w_there, dx);
        expect_rows(layout, y, reference::grouped_matmul(x, layout.offsets, w, n, m));
        expect_rows(layout, dx, reference::grouped_matmul_dx(dy, layout.offsets, w, n, m));
      }
      const Tensor dw = upload(before, {groups, n, m});
      backend().grouped_matmul_dw(dy_there, x_there, offsets, dw);
      expect_close(download(dw),
                   sum(before, reference::grouped_matmul_dw(dy, x, layout.offsets, n, m)), 2e-5,
                   "dw");
    }
  }
}

TEST_P(MatmulGroups, NoOffsetsAreOneGroup) {
  const Layout layout = {.offsets = {0, 21}, .rows = 21};
  const Vector x = values(layout, 40, "x", compute());
  const Vector w = random({1, 24, 40}, "w", compute());
  const Tensor y = poisoned({21, 24}, compute());
  backend().grouped_matmul(upload(x, {21, 40}, compute()), Tensor(),
                           upload(w, {1, 24, 40}, compute()), y);
  expect_rows(layout, y, reference::grouped_matmul(x, layout.offsets, w, 24, 40));
}

// Neither how many rows there are, nor a row's place among them, nor its group changes its bits. So
// the result is the same twice, too.
class MatmulBits : public KernelTest {
 protected:
  static constexpr std::int64_t kRows = 300;
  static constexpr std::int64_t kColumns = 40;

  // Rows [begin, begin + count) of x alone; w: (N, K).
  Vector rows_alone(const Tensor& x, std::int64_t begin, std::int64_t count, const Tensor& w,
                    DType out) const {
    const Tensor y = poisoned({count, kColumns}, out);
    backend().matmul(x.rows(begin, count), Transpose::kNo, w, Transpose::kYes, y,
                     Write::kOverwrite);
    return download(y);
  }

  static Vector part(const Vector& all, std::int64_t begin, std::int64_t count) {
    const auto first = all.begin() + begin * kColumns;
    return {first, first + count * kColumns};
  }
};

TEST_P(MatmulBits, OfARowAreTheSameInEveryBatch) {
  for (const std::int64_t k : {264, 267}) {
    const Tensor x = upload(random({kRows, k}, "x", compute()), {kRows, k}, compute());
    const Tensor w = upload(random({kColumns, k}, "w", compute()), {kColumns, k}, compute());
    const Vector all = rows_alone(x, 0, kRows, w, DType::kF32);
    EXPECT_EQ(all, rows_alone(x, 0, kRows, w, DType::kF32));
    for (const std::int64_t count : {1, 2, 7, 15, 16, 17, 33, 64, 65, 127, 129, 200}) {
      for (const std::int64_t begin : {0, 77}) {
        EXPECT_EQ(part(all, begin, count), rows_alone(x, begin, count, w, DType::kF32))
            << count << " rows from " << begin << ", depth " << k;
      }
    }
  }
}

TEST_P(MatmulBits, OfARowAreTheSameInEveryGroup) {
  const std::int64_t k = 136;
  const Tensor x = upload(random({kRows, k}, "x", compute()), {kRows, k}, compute());
  const Vector one = random({kColumns, k}, "w", compute());
  Vector four;
  for (int g = 0; g < 4; ++g) {
    four.insert(four.end(), one.begin(), one.end());
  }
  const Tensor w = upload(four, {4, kColumns, k}, compute());
  const Tensor same = w.rows(0, 1).reshaped({kColumns, k});
  const Vector all = rows_alone(x, 0, kRows, same, DType::kF32);
  for (const Indices& offsets : {Indices{0, 1, 30, 30, 300}, {0, 100, 200, 299, 300}}) {
    const Tensor y = poisoned({kRows, kColumns});
    backend().grouped_matmul(x, upload_offsets(offsets), w, y);
    EXPECT_EQ(all, download(y));
  }
}

INSTANTIATE_TEST_SUITE_P(Backends, MatmulKernels, all_cases(), case_name);
INSTANTIATE_TEST_SUITE_P(Backends, MatmulGroups, all_cases(), case_name);
INSTANTIATE_TEST_SUITE_P(Backends, MatmulBits, packed_cases(), case_name);

}  // namespace
}  // namespace moesaic::testing
