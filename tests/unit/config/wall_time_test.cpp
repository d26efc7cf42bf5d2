// The time that loading took, or an earlier loop over the same job, is gone from run.max_wall.
#include "config/wall_time.h"

#include <gtest/gtest.h>

namespace moesaic::config {
namespace {

TEST(WallTime, IsCountedFromTheStartOfTheProgram) {
  Config config;
  config.run.max_wall = 1000.0;
  const double left = wall_seconds(config.run);
  EXPECT_GT(left, 0.0);
  EXPECT_LT(left, 1000.0);
  EXPECT_LT(wall_seconds(config.run), left);
  config.run.max_wall = 1e-9;
  EXPECT_EQ(wall_seconds(config.run), 0.0);
}

}  // namespace
}  // namespace moesaic::config
