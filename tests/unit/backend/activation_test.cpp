// Protects SwiGLU.
#include "reference/activation.h"

#include <fmt/format.h>

#include "unit/backend/kernel_test.h"

namespace moesaic::testing {
namespace {

class SwigluKernels : public KernelTest {};

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

INSTANTIATE_TEST_SUITE_P(Backends, SwigluKernels, all_cases(), case_name);

}  // namespace
}  // namespace moesaic::testing
