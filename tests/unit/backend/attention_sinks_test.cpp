// Protects sinks of attention against their reference.
#include "reference/attention_sinks.h"

#include <fmt/format.h>

#include "unit/backend/kernel_test.h"

namespace moesaic::testing {
namespace {

class AttentionSinkKernels : public KernelTest {};

TEST_P(AttentionSinkKernels, Sinks) {
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

INSTANTIATE_TEST_SUITE_P(Backends, AttentionSinkKernels, all_cases(), case_name);

}  // namespace
}  // namespace moesaic::testing
