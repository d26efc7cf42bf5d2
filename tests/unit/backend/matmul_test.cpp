// Protects the matrix products: transposes, odd sizes, output dtypes, adding, groups.
#include "reference/matmul.h"

#include <fmt/format.h>

#include <array>

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

INSTANTIATE_TEST_SUITE_P(Backends, MatmulKernels, all_cases(), case_name);

}  // namespace
}  // namespace moesaic::testing
