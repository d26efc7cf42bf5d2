// Protects the elementwise kernels that training rests on, and clamping.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "unit/backend/kernel_test.h"

namespace moesaic::testing {
namespace {

class ElementwiseKernels : public KernelTest {};

TEST_P(ElementwiseKernels, ZeroAndAdd) {
  for (const std::int64_t count : {0, 1, 3, 17, 65, 4099}) {
    const Vector x = random({count}, "x");
    const Vector y = random({count}, "y");
    const Tensor inout = upload(y, {count});
    backend().add(upload(x, {count}), inout);
    expect_close(download(inout), sum(x, y), 1e-6, "sum");

    const Tensor zero = poisoned({count}, compute());
    backend().zero(zero);
    EXPECT_EQ(download(zero), Vector(x.size(), 0.0));
  }
}

// Tensors of all sizes in one call, each summed in double: the norm of a step's gradients.
TEST_P(ElementwiseKernels, SumsOfSquares) {
  std::vector<Tensor> tensors;
  Vector squares;
  const auto add = [&](const Vector& x) {
    tensors.push_back(upload(x, {std::ssize(x)}));
    squares.push_back(
        std::accumulate(x.begin(), x.end(), 0.0, [](double s, double v) { return s + v * v; }));
  };
  for (const std::int64_t count : {0, 1, 3, 17, 65, 4099, 0, 70'001}) {
    add(random({count}, std::to_string(count)));
  }
  add({3e30, 4e30});  // of which the squares are no floats
  tensors.push_back(tensors.back().rows(1, 1));
  squares.push_back(16e60);
  const Tensor sums = poisoned({std::ssize(tensors)}, DType::kF64);
  backend().sums_of_squares(tensors, sums);
  const Vector found = download(sums);
  for (std::size_t i = 0; i < squares.size(); ++i) {
    EXPECT_NEAR(found[i], squares[i], 1e-6 * squares[i]) << i;
  }
  backend().sums_of_squares(tensors, sums);
  EXPECT_EQ(download(sums), found);
  backend().sums_of_squares({}, sums.rows(0, 0));
  tensors.resize(1);
  tensors[0] = upload(Vector{1.0, NAN, 2.0}, {3});
  backend().sums_of_squares(tensors, sums.rows(2, 1));
  EXPECT_TRUE(std::isnan(download(sums)[2]));
  EXPECT_EQ(download(sums)[3], found[3]);
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
