// Which rank is reported for holding up the others, and how often.
#include "base/straggler.h"

#include <gtest/gtest.h>

#include <array>

namespace moesaic {
namespace {

using Seconds = std::array<double, 4>;

// Protects: a rank that stays slow is named once, not at every step; a short delay is not.
TEST(StragglerWatch, SlowForFiveSteps) {
  StragglerWatch watch;
  const Seconds even = {1.0, 1.1, 0.9, 1.0};
  const Seconds slow = {1.0, 1.1, 1.7, 1.0};
  EXPECT_FALSE(watch.add(even));
  for (int step = 0; step < 4; ++step) {
    EXPECT_FALSE(watch.add(slow));
  }
  EXPECT_FALSE(watch.add(even));  // it has kept up: the count starts again
  for (int step = 0; step < 4; ++step) {
    EXPECT_FALSE(watch.add(slow));
  }
  const auto found = watch.add(slow);
  ASSERT_TRUE(found);
  EXPECT_EQ(found->rank, 2);
  EXPECT_EQ(found->seconds, 1.7);
  EXPECT_EQ(found->median, 1.0);
  EXPECT_FALSE(watch.add(slow));
}

// Protects: a rank that stood still in one step is named in that step, also of two ranks.
TEST(StragglerWatch, StoppedInOneStep) {
  StragglerWatch watch;
  EXPECT_FALSE(watch.add(std::array{0.2, 4.0}));  // long, but a hiccup
  EXPECT_FALSE(watch.add(std::array{0.2, 0.2}));
  const auto found = watch.add(std::array{20.2, 0.2});
  ASSERT_TRUE(found);
  EXPECT_EQ(found->rank, 0);
  EXPECT_EQ(found->median, 0.2);
  EXPECT_FALSE(watch.add(std::array{20.2, 0.2}));
  EXPECT_FALSE(watch.add(std::array{0.2, 0.2}));
  EXPECT_TRUE(watch.add(std::array{20.2, 0.2}));
  EXPECT_FALSE(StragglerWatch().add(std::array{9.0}));  // alone
}

}  // namespace
}  // namespace moesaic
