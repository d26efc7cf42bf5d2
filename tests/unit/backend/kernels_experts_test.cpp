// Protects SwiGLU and the moving of rows to experts and back.
#include <fmt/format.h>

#include "reference/dispatch.h"
#include "reference/router.h"
#include "reference/swiglu.h"
#include "unit/backend/kernel_test.h"

namespace moesaic::testing {
namespace {

class SwigluKernels : public KernelTest {};
class DispatchKernels : public KernelTest {};

constexpr std::initializer_list<std::int64_t> kDims = {1, 16, 37};

TEST_P(SwigluKernels, ForwardAndBackward) {
  for (const std::int64_t rows : kRowCounts) {
    for (const std::int64_t width : kDims) {
      const Vector gate_up = random({rows, 2, width}, "gate_up", compute());
      const Vector dy = random({rows, width}, "dy", compute());
      const Tensor there = upload(gate_up, {rows, 2 * width}, compute());
      for (const float limit : {0.0F, 0.8F}) {
        const Tensor y = poisoned({rows, width}, compute());
        const Tensor dgate_up = poisoned({rows, 2 * width}, compute());
        backend().swiglu(there, limit, y);
        backend().swiglu_backward(upload(dy, {rows, width}, compute()), there, limit, dgate_up);
        const std::string what = fmt::format("({}, {}) within {}", rows, width, limit);
        expect_close(download(y), reference::swiglu(gate_up, width, limit), tolerance(),
                     "y " + what);
        expect_close(download(dgate_up), reference::swiglu_backward(dy, gate_up, width, limit),
                     tolerance(), "dgate_up " + what);
      }
    }
  }
}

TEST_P(SwigluKernels, SaturatesWithoutNaN) {
  const Vector gate_up = {-1000, -90, 0, 90, 1000, 1, 2, 3, 4, 5};
  const Vector dy(5, 1.0);
  const Tensor there = upload(gate_up, {1, 10}, compute());
  const Tensor y = poisoned({1, 5}, compute());
  const Tensor dgate_up = poisoned({1, 10}, compute());
  backend().swiglu(there, 0.0F, y);
  backend().swiglu_backward(upload(dy, {1, 5}, compute()), there, 0.0F, dgate_up);
  expect_close(download(y), {0, 0, 0, 360, 5000}, tolerance(), "y");
  expect_close(download(dgate_up), {0, 0, 1.5, 4, 5, 0, 0, 0, 90, 1000}, tolerance(), "dgate_up");
}

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

TEST_P(DispatchKernels, GatherCopiesRows) {
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

TEST_P(DispatchKernels, CombineWeighsAndSumsRows) {
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

TEST_P(DispatchKernels, CombineBackward) {
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

INSTANTIATE_TEST_SUITE_P(Backends, SwigluKernels, all_cases(), case_name);
INSTANTIATE_TEST_SUITE_P(Backends, DispatchKernels, all_cases(), case_name);

}  // namespace
}  // namespace moesaic::testing
