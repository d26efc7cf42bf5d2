// Protects the rotation of heads against its reference.
#include "reference/rope.h"

#include <fmt/format.h>

#include "unit/backend/kernel_test.h"
#include "unit/backend/row_groups.h"

namespace moesaic::testing {
namespace {

class RopeKernels : public KernelTest {};

TEST_P(RopeKernels, RopeTurnsGroupsAndBack) {
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

TEST_P(RopeKernels, FarPositionsKeepTheirAngle) {
  const reference::Groups g{.row = 16, .first = 0, .groups = 1, .stride = 0, .width = 16};
  const Vector x = random({2, 16}, "x", compute());
  const Indices position = {8191, 32767};
  const reference::Rotation rotation{reference::plain_frequencies(16, 10000.0)};
  const Tensor there = upload(x, {2, 16}, compute());
  backend().rope(there, of(g), upload(position, {2}), upload(rotation.frequency, {8}), {},
                 Direction::kForward);
  expect_close(download(there), reference::rope(x, g, position, rotation), 1e-2, "x");
}

INSTANTIATE_TEST_SUITE_P(Backends, RopeKernels, all_cases(), case_name);

}  // namespace
}  // namespace moesaic::testing
