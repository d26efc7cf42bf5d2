// Protects RMS norm, of rows and of their groups, against its reference.
#include "reference/norm.h"

#include <fmt/format.h>

#include "unit/backend/kernel_test.h"
#include "unit/backend/row_groups.h"

namespace moesaic::testing {
namespace {

class NormKernels : public KernelTest {};
class NormBackwardKernels : public KernelTest {};

constexpr std::initializer_list<std::int64_t> kDims = {5, 16, 37, 130};
constexpr float kEps = 1e-5F;

TEST_P(NormKernels, Forward) {
  for (const std::int64_t rows : kRowCounts) {
    for (const std::int64_t dim : kDims) {
      const Vector x = random({rows, dim}, "x");
      const Vector weight = random({dim}, "weight");
      const Tensor y = poisoned({rows, dim}, compute());
      const Tensor rstd = poisoned({rows});
      backend().rms_norm(upload(x, {rows, dim}), upload(weight, {dim}), kEps, y, rstd);
      const reference::RmsNorm expected = reference::rms_norm(x, weight, kEps);
      const std::string what = fmt::format("({}, {})", rows, dim);
      expect_close(download(y), expected.y, tolerance(), "y " + what);
      expect_close(download(rstd), expected.rstd, 2e-5, "rstd " + what);
    }
  }
}

TEST_P(NormBackwardKernels, AddsTheWeightGradient) {
  for (const std::int64_t rows : kRowCounts) {
    for (const std::int64_t dim : kDims) {
      const Vector x = random({rows, dim}, "x");
      const Vector weight = random({dim}, "weight");
      const Vector dy = random({rows, dim}, "dy");
      const Vector before = random({dim}, "before");
      const Vector rstd = reference::rms_norm(x, weight, kEps).rstd;
      const Tensor dx = poisoned({rows, dim});
      const Tensor dweight = upload(before, {dim});
      backend().rms_norm_backward(upload(dy, {rows, dim}), upload(x, {rows, dim}),
                                  upload(weight, {dim}), upload(rstd, {rows}), dx, dweight);
      const auto expected = reference::rms_norm_backward(dy, x, weight, kEps);
      const std::string what = fmt::format("({}, {})", rows, dim);
      expect_close(download(dx), expected.dx, 2e-5, "dx " + what);
      expect_close(download(dweight), sum(before, expected.dweight), 2e-5, "dweight " + what);
    }
  }
}

TEST_P(NormKernels, NormOfGroups) {
  constexpr double kGroupEps = 1e-3;
  for (const std::int64_t rows : kRowCounts) {
    for (const reference::Groups& g : kGroups) {
      const Shape shape{rows, g.row};
      const Vector x = random({rows, g.row}, "x", compute());
      const Vector dy = random({rows, g.row}, "dy", compute());
      const Vector weight = random({g.width}, "weight");
      const Vector before = random({g.width}, "before");
      const Tensor there = upload(x, shape, compute());
      const Tensor weights = upload(weight, {g.width});
      const Tensor y = upload(x, shape, compute());
      const Tensor squares = poisoned({rows, g.groups});
      const auto width = static_cast<float>(g.width);
      backend().group_squares(there, of(g), squares);
      backend().group_norm(there, of(g), squares, width, static_cast<float>(kGroupEps), weights, y);
      const std::string what = fmt::format("({}, {})", rows, g.row);
      expect_close(download(y), reference::group_norm(x, g, weight, kGroupEps), tolerance(),
                   "y " + what);

      const Tensor gradient = upload(dy, shape, compute());
      const Tensor dots = poisoned({rows, g.groups});
      const Tensor dweight = upload(before, {g.width});
      backend().group_dots(gradient, there, of(g), weights, dots);
      backend().group_norm_backward(gradient, there, of(g), squares, dots, width,
                                    static_cast<float>(kGroupEps), weights, dweight);
      const auto expected = reference::group_norm_backward(dy, x, g, weight, kGroupEps);
      expect_close(download(gradient), expected.dx, tolerance(), "dx " + what);
      expect_close(download(dweight), sum(before, expected.dweight), 2e-5, "dweight " + what);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Backends, NormKernels, all_cases(), case_name);
INSTANTIATE_TEST_SUITE_P(Backends, NormBackwardKernels, fp32_cases(), case_name);

}  // namespace
}  // namespace moesaic::testing
