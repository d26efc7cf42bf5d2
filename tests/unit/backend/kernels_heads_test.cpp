// Protects what is done to heads between the products of attention, and biases and gates of rows,
// against the references.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "reference/heads.h"
#include "unit/backend/kernel_test.h"

namespace moesaic::testing {
namespace {

class HeadKernels : public KernelTest {
 protected:
  static RowGroups of(const reference::Groups& g) { return {g.first, g.groups, g.stride, g.width}; }
};
class RowKernels : public KernelTest {};

// Groups at the start, in the middle and at the end of a row, with and without gaps.
constexpr std::initializer_list<reference::Groups> kGroups = {
    {.row = 20, .first = 0, .groups = 2, .stride = 10, .width = 10},
    {.row = 23, .first = 4, .groups = 3, .stride = 6, .width = 2},
    {.row = 80, .first = 7, .groups = 2, .stride = 37, .width = 34},
    {.row = 40, .first = 8, .groups = 1, .stride = 0, .width = 32},
};

TEST_P(HeadKernels, RopeTurnsGroupsAndBack) {
  for (const std::int64_t rows : kRowCounts) {
    for (const reference::Groups& g : kGroups) {
      const Vector x = random({rows, g.row}, "x", compute());
      const Indices position = random_indices(rows, 300, "position");
      for (const bool interleave : {false, true}) {
        for (const bool inverse : {false, true}) {
          const reference::Rotation rotation{reference::plain_frequencies(g.width, 10000.0),
                                             interleave, 1.25, inverse};
          const Tensor there = upload(x, {rows, g.row}, compute());
          backend().rope(there, of(g), upload(position, {rows}),
                         upload(rotation.frequency, {g.width / 2}), {interleave, 1.25F},
                         inverse ? Direction::kInverse : Direction::kForward);
          // The angle itself is a float: at position 300 it is known to 2e-5.
          expect_close(download(there), reference::rope(x, g, position, rotation),
                       tolerance() + 3e-5, fmt::format("({}, {})", rows, g.row));
        }
      }
    }
  }
}

TEST_P(HeadKernels, FarPositionsKeepTheirAngle) {
  const reference::Groups g{.row = 16, .first = 0, .groups = 1, .stride = 0, .width = 16};
  const Vector x = random({2, 16}, "x", compute());
  const Indices position = {8191, 32767};
  const reference::Rotation rotation{reference::plain_frequencies(16, 10000.0)};
  const Tensor there = upload(x, {2, 16}, compute());
  backend().rope(there, of(g), upload(position, {2}), upload(rotation.frequency, {8}), {},
                 Direction::kForward);
  expect_close(download(there), reference::rope(x, g, position, rotation), 1e-2, "x");
}

TEST_P(HeadKernels, NormOfGroups) {
  constexpr double kEps = 1e-3;
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
      backend().group_norm(there, of(g), squares, width, static_cast<float>(kEps), weights, y);
      const std::string what = fmt::format("({}, {})", rows, g.row);
      expect_close(download(y), reference::group_norm(x, g, weight, kEps), tolerance(),
                   "y " + what);

      const Tensor gradient = upload(dy, shape, compute());
      const Tensor dots = poisoned({rows, g.groups});
      const Tensor dweight = upload(before, {g.width});
      backend().group_dots(gradient, there, of(g), weights, dots);
      backend().group_norm_backward(gradient, there, of(g), squares, dots, width,
                                    static_cast<float>(kEps), weights, dweight);
      const auto expected = reference::group_norm_backward(dy, x, g, weight, kEps);
      expect_close(download(gradient), expected.dx, tolerance(), "dx " + what);
      expect_close(download(dweight), sum(before, expected.dweight), 2e-5, "dweight " + what);
    }
  }
}

TEST_P(HeadKernels, CopiesGroupsBetweenDtypes) {
  for (const std::int64_t rows : kRowCounts) {
    for (const DType from : {DType::kF32, compute()}) {
      for (const DType to : {DType::kF32, compute()}) {
        const Vector x = random({rows, 45}, "x", compute());
        const Tensor there = upload(x, {rows, 45}, from);
        const Tensor repeated =
            upload(Vector(static_cast<std::size_t>(rows * 60), 7.0), {rows, 60}, to);
        backend().copy_groups(there, {3, 3, 0, 17}, repeated, {1, 3, 20, 17}, Write::kOverwrite);
        const Tensor summed =
            upload(Vector(static_cast<std::size_t>(rows * 20), 1.0), {rows, 20}, to);
        backend().copy_groups(there, {0, 3, 15, 15}, summed, {2, 3, 0, 15}, Write::kAdd);
        Vector expected(static_cast<std::size_t>(rows * 60), 7.0);
        Vector sums(static_cast<std::size_t>(rows * 20), 1.0);
        for (std::int64_t t = 0; t < rows; ++t) {
          for (std::int64_t g = 0; g < 3; ++g) {
            std::copy_n(x.begin() + t * 45 + 3, 17, expected.begin() + t * 60 + 1 + g * 20);
            for (std::int64_t i = 0; i < 15; ++i) {
              sums[static_cast<std::size_t>(t * 20 + 2 + i)] +=
                  x[static_cast<std::size_t>(t * 45 + g * 15 + i)];
            }
          }
        }
        EXPECT_EQ(download(repeated), expected);
        expect_close(download(summed), sums, 2 * tolerance(), "sums");
      }
    }
  }
}

TEST_P(HeadKernels, ClampsAndPassesGradientsInside) {
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

TEST_P(HeadKernels, Sinks) {
  for (const std::int64_t rows : kRowCounts) {
    for (const std::int64_t width : {3, 16, 21}) {
      constexpr std::int64_t kHeads = 3;
      const Shape shape{rows, kHeads, width};
      const Vector out = random({rows, kHeads, width}, "out", compute());
      const Vector dout = random({rows, kHeads, width}, "dout", compute());
      const Vector lse = random({rows, kHeads}, "lse");
      const Vector sinks = random({kHeads}, "sinks");
      const Vector before = random({kHeads}, "before");
      const reference::Sunk expected = reference::add_sinks(out, lse, sinks);
      const Tensor there = upload(out, shape, compute());
      const Tensor sums = upload(lse, {rows, kHeads});
      backend().add_sinks(upload(sinks, {kHeads}), there, sums);
      const std::string what = fmt::format("of {} rows, width {}", rows, width);
      expect_close(download(there), expected.out, tolerance(), "out " + what);
      expect_close(download(sums), expected.lse, 2e-5, "lse " + what);
      const Tensor dsinks = upload(before, {kHeads});
      backend().sinks_backward(upload(dout, shape, compute()), there, sums, upload(sinks, {kHeads}),
                               dsinks);
      expect_close(
          download(dsinks),
          sum(before, reference::sinks_backward(dout, download(there), download(sums), sinks)),
          5e-5, "dsinks " + what);
    }
  }
}

TEST_P(RowKernels, BiasesByGroup) {
  for (const std::int64_t dim : {1, 16, 37}) {
    const std::array<std::int64_t, 5> offsets = {0, 4, 4, 5, 23};
    const Vector y = random({23, dim}, "y", compute());
    const Vector bias = random({4, dim}, "bias", compute());
    const Vector before = random({4, dim}, "before");
    const Tensor there = upload(y, {23, dim}, compute());
    backend().add_bias(there, offsets, upload(bias, {4, dim}));
    const Tensor dbias = upload(before, {4 * dim});
    backend().bias_backward(upload(y, {23, dim}, compute()), offsets, dbias);
    Vector shifted = y;
    Vector gradient = before;
    for (std::size_t g = 0; g + 1 < offsets.size(); ++g) {
      for (std::int64_t t = offsets[g]; t < offsets[g + 1]; ++t) {
        for (std::int64_t i = 0; i < dim; ++i) {
          const auto of_bias = static_cast<std::size_t>(static_cast<std::int64_t>(g) * dim + i);
          shifted[static_cast<std::size_t>(t * dim + i)] += bias[of_bias];
          gradient[of_bias] += y[static_cast<std::size_t>(t * dim + i)];
        }
      }
    }
    expect_close(download(there), shifted, tolerance(), fmt::format("y, dim {}", dim));
    expect_close(download(dbias), gradient, 2e-5, fmt::format("dbias, dim {}", dim));
  }
}

TEST_P(RowKernels, GatesRows) {
  for (const std::int64_t rows : kRowCounts) {
    for (const std::int64_t dim : {1, 16, 37}) {
      const Vector x = random({rows, dim}, "x", compute());
      const Vector dy = random({rows, dim}, "dy", compute());
      const Vector logit = random({rows}, "logit");
      const Tensor y = upload(x, {rows, dim}, compute());
      backend().gate_rows(y, upload(logit, {rows}));
      const Tensor dx = upload(dy, {rows, dim}, compute());
      const Tensor dlogit = poisoned({rows});
      backend().gate_rows_backward(dx, y, upload(logit, {rows}), dlogit);
      Vector gated;
      Vector gradient;
      Vector of_logit(static_cast<std::size_t>(rows), 0.0);
      const Vector stored = download(y);
      for (std::size_t i = 0; i < x.size(); ++i) {
        const std::size_t t = i / static_cast<std::size_t>(dim);
        const double s = 1.0 / (1.0 + std::exp(-logit[t]));
        gated.push_back(s * x[i]);
        gradient.push_back(s * dy[i]);
        of_logit[t] += dy[i] * stored[i] * (1.0 - s);
      }
      expect_close(stored, gated, tolerance(), fmt::format("y ({}, {})", rows, dim));
      expect_close(download(dx), gradient, tolerance(), fmt::format("dx ({}, {})", rows, dim));
      expect_close(download(dlogit), of_logit, 2e-5, fmt::format("dlogit ({}, {})", rows, dim));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Backends, HeadKernels, all_cases(), case_name);
INSTANTIATE_TEST_SUITE_P(Backends, RowKernels, all_cases(), case_name);

}  // namespace
}  // namespace moesaic::testing
