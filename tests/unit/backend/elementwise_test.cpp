// Protects the elementwise kernels that training rests on, and clamping.
#include <algorithm>
#include <cmath>

#include "unit/backend/kernel_test.h"

namespace moesaic::testing {
namespace {

class ElementwiseKernels : public KernelTest {};

TEST_P(ElementwiseKernels, ZeroAddAndSumOfSquares) {
  for (const std::int64_t count : {0, 1, 3, 17, 65, 4099}) {
    const Vector x = random({count}, "x");
    const Vector y = random({count}, "y");
    const Tensor inout = upload(y, {count});
    backend().add(upload(x, {count}), inout);
    expect_close(download(inout), sum(x, y), 1e-6, "sum");

    double squares = 0.0;
    for (const double value : x) {
      squares += value * value;
    }
    EXPECT_NEAR(backend().sum_of_squares(upload(x, {count})), squares, 1e-6 * squares);

    const Tensor zero = poisoned({count}, compute());
    backend().zero(zero);
    EXPECT_EQ(download(zero), Vector(x.size(), 0.0));
  }
}

TEST_P(ElementwiseKernels, ConvertRoundsToNearestEven) {
  const double half = 1.0 / 256.0;  // of the spacing of bf16 above 1
  const Vector exact = {1.0, 1.0 + half, 1.0 + 3 * half, 1.0 + half * 1.01, -3e38, 0.0};
  const Vector rounded = {1.0, 1.0, 1.0 + 4 * half, 1.0 + 2 * half};
  const Tensor narrow = poisoned({6}, DType::kBf16);
  backend().convert(upload(exact, {6}), narrow);
  const Vector got = download(narrow);
  EXPECT_EQ(Vector(got.begin(), got.begin() + 4), rounded);
  EXPECT_TRUE(std::isfinite(got[4]));

  for (const std::int64_t count : kRowCounts) {
    const Vector x = random({count}, "x", DType::kBf16);  // exact in both dtypes
    const Tensor there = poisoned({count}, DType::kBf16);
    const Tensor back = poisoned({count});
    backend().convert(upload(x, {count}), there);
    backend().convert(there, back);
    EXPECT_EQ(download(there), x);
    EXPECT_EQ(download(back), x);
  }
}

TEST_P(ElementwiseKernels, ClampsAndPassesGradientsInside) {
  for (const std::int64_t rows : kRowCounts) {
    const Vector x = random({rows, 19}, "x", compute());
    const Vector dy = random({rows, 19}, "dy", compute());
    const Tensor y = upload(x, {rows, 19}, compute());
    const Tensor dx = upload(dy, {rows, 19}, compute());
    backend().clamp(y, 0.5F);
    backend().clamp_backward(dx, upload(x, {rows, 19}, compute()), 0.5F);
    Vector clamped;
    Vector passed;
    for (std::size_t i = 0; i < x.size(); ++i) {
      clamped.push_back(std::clamp(x[i], -0.5, 0.5));
      passed.push_back(std::abs(x[i]) <= 0.5 ? dy[i] : 0.0);
    }
    EXPECT_EQ(download(y), clamped);
    EXPECT_EQ(download(dx), passed);
  }
}

INSTANTIATE_TEST_SUITE_P(Backends, ElementwiseKernels, all_cases(), case_name);

}  // namespace
}  // namespace moesaic::testing
