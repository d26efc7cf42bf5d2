// Protects the moving of rows to experts and back, copies of their groups, and biases and gates of
// rows.
#include "reference/rows.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "reference/router.h"
#include "unit/backend/kernel_test.h"

namespace moesaic::testing {
namespace {

class RowKernels : public KernelTest {};

constexpr std::initializer_list<std::int64_t> kDims = {1, 16, 37};

// A routing of `tokens` tokens over 5 experts, two choices each, with or without drops.
struct Plan {
  reference::Routing routing;
  reference::Dispatch dispatch;
};
Plan plan_of(std::int64_t tokens, std::int64_t capacity) {
  Plan plan;
  plan.routing = reference::route(random({tokens, 5}, "logits"), {},
                                  {reference::Score::kSoftmax, 5, 2, false, 1.0});
  plan.dispatch = reference::dispatch(plan.routing.choice, plan.routing.weight, 2, 5, capacity);
  return plan;
}

TEST_P(RowKernels, GatherCopiesRows) {
  for (const std::int64_t tokens : kRowCounts) {
    const Plan plan = plan_of(tokens, 9);
    const std::int64_t rows = std::ssize(plan.dispatch.token);
    for (const std::int64_t dim : kDims) {
      const Vector x = random({tokens, dim}, "x", compute());
      const Tensor y = poisoned({rows, dim}, compute());
      backend().gather_rows(upload(x, {tokens, dim}, compute()),
                            upload(plan.dispatch.token, {rows}), y);
      EXPECT_EQ(download(y), reference::gather_rows(x, plan.dispatch.token, dim));
    }
  }
}

TEST_P(RowKernels, CombineWeighsAndSumsRows) {
  for (const std::int64_t tokens : kRowCounts) {
    const auto [routing, dispatch] = plan_of(tokens, 9);
    const std::int64_t count = std::ssize(dispatch.token);
    for (const std::int64_t dim : kDims) {
      const Vector rows = random({count, dim}, "rows", compute());
      const Tensor rows_there = upload(rows, {count, dim}, compute());
      const Tensor position = upload(dispatch.position, {tokens, 2});
      const Tensor weighted = poisoned({tokens, dim});
      const Tensor plain = poisoned({tokens, dim});
      backend().combine_rows(rows_there, position, upload(routing.weight, {tokens, 2}), weighted);
      backend().combine_rows(rows_there, position, Tensor(), plain);
      expect_close(download(weighted),
                   reference::combine_rows(rows, dispatch.position, routing.weight, 2, dim), 2e-5,
                   "weighted");
      expect_close(download(plain), reference::combine_rows(rows, dispatch.position, {}, 2, dim),
                   2e-5, "plain");
    }
  }
}

TEST_P(RowKernels, CombineBackward) {
  for (const std::int64_t tokens : kRowCounts) {
    for (const std::int64_t capacity : {0, 9}) {
      const auto [routing, dispatch] = plan_of(tokens, capacity);
      const std::int64_t count = std::ssize(dispatch.token);
      for (const std::int64_t dim : kDims) {
        const Vector rows = random({count, dim}, "rows", compute());
        const Vector dy = random({tokens, dim}, "dy");
        const Tensor drows = poisoned({count, dim}, compute());
        const Tensor dweight = poisoned({tokens, 2});
        backend().combine_rows_backward(upload(dy, {tokens, dim}),
                                        upload(rows, {count, dim}, compute()),
                                        upload(dispatch.position, {tokens, 2}),
                                        upload(routing.weight, {tokens, 2}), drows, dweight);
        const auto expected =
            reference::combine_rows_backward(dy, rows, dispatch.position, routing.weight, 2, dim);
        expect_close(download(drows), expected.drows, tolerance(), "drows");
        expect_close(download(dweight), expected.dweight, 2e-5, "dweight");
      }
    }
  }
}

TEST_P(RowKernels, CopiesGroupsBetweenDtypes) {
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

TEST_P(RowKernels, BiasesByGroup) {
  for (const std::int64_t dim : {1, 16, 37}) {
    const Indices offsets = {0, 4, 4, 5, 23};
    const Tensor at = upload_offsets(offsets);
    const Vector y = random({23, dim}, "y", compute());
    const Vector bias = random({4, dim}, "bias", compute());
    const Vector before = random({4, dim}, "before");
    const Tensor there = upload(y, {23, dim}, compute());
    backend().add_bias(there, at, upload(bias, {4, dim}));
    const Tensor dbias = upload(before, {4 * dim});
    backend().bias_backward(upload(y, {23, dim}, compute()), at, dbias);
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

INSTANTIATE_TEST_SUITE_P(Backends, RowKernels, all_cases(), case_name);

}  // namespace
}  // namespace moesaic::testing
