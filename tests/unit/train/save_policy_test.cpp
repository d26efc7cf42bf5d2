#include "train/save_policy.h"

#include <gtest/gtest.h>

#include <cstdlib>

namespace moesaic::train {
namespace {

config::Config with_wall(double seconds) {
  config::Config config;
  config.checkpoint.dir = "c";
  config.checkpoint.every_minutes = 30.0;
  config.run.max_wall = seconds;
  return config;
}

// Protects: the first save of a job has as much time before the wall as a save takes, not none.
TEST(SavePolicy, FirstSave) {
  ::unsetenv("SLURM_JOB_END_TIME");
  EXPECT_FALSE(SavePolicy(with_wall(3600.0), 9, 0.0, 0.0).out_of_time());
  SavePolicy policy(with_wall(3600.0), 9, 1800.0, 0.0);
  EXPECT_TRUE(policy.out_of_time());
  policy.saved(100.0);  // what was measured counts, not what was expected
  EXPECT_FALSE(policy.out_of_time());
  policy.saved(1800.0);
  EXPECT_TRUE(policy.out_of_time());
  EXPECT_EQ(policy.measured_save(), 1800.0);
}

// Protects: an estimate never takes a short job's whole time, and is not handed on as if measured.
TEST(SavePolicy, ExpectedSave) {
  ::unsetenv("SLURM_JOB_END_TIME");
  SavePolicy policy(with_wall(3600.0), 9, 0.0, 1e6);
  EXPECT_FALSE(policy.out_of_time());
  EXPECT_EQ(policy.measured_save(), 0.0);
  policy.saved(7.0);
  EXPECT_EQ(policy.measured_save(), 7.0);
  EXPECT_EQ(SavePolicy(with_wall(3600.0), 9, 5.0, 1e6).measured_save(), 5.0);
}

TEST(SavePolicy, ExpectedSeconds) {
  EXPECT_EQ(expected_save_seconds(1e9, 1), 10.0);
  EXPECT_EQ(expected_save_seconds(1e12, 10000), 500.0);
}

// Protects: nobody loses half an hour of work to Ctrl-C, where no batch system gives notice.
TEST(SavePolicy, FirstMinute) {
  ::unsetenv("SLURM_JOB_ID");
  SavePolicy policy(with_wall(-1.0), 9, 0.0, 0.0);
  EXPECT_EQ(policy.minutes(), 1.0);
  policy.saved(1.0);
  EXPECT_EQ(policy.minutes(), 30.0);
  config::Config never = with_wall(-1.0);
  never.checkpoint.every_minutes = 0.0;
  EXPECT_EQ(SavePolicy(never, 9, 0.0, 0.0).minutes(), 0.0);
  ::setenv("SLURM_JOB_ID", "7", 1);
  EXPECT_EQ(SavePolicy(with_wall(-1.0), 9, 0.0, 0.0).minutes(), 30.0);
  ::unsetenv("SLURM_JOB_ID");
}

}  // namespace
}  // namespace moesaic::train
