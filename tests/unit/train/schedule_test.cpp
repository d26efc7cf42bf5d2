#include "train/schedule.h"

#include <gtest/gtest.h>

#include <utility>
#include <vector>

namespace moesaic::train {
namespace {

using Points = std::vector<std::pair<std::int64_t, double>>;

void expect(config::Schedule schedule, std::int64_t warmup, const Points& points) {
  config::Train train;
  train.lr = 1.0;
  train.min_lr = 0.2;
  train.warmup = warmup;
  train.decay_steps = 110;
  train.schedule = schedule;
  for (const auto& [step, lr] : points) {
    EXPECT_NEAR(learning_rate(train, step), lr, 1e-12) << "step " << step;
  }
}

// Protects: every schedule's warm-up, shape, end, and what follows the end; values by hand.
TEST(Schedule, Cosine) {
  expect(config::Schedule::kCosine, 10,
         {{1, 0.1}, {5, 0.5}, {10, 1.0}, {60, 0.6}, {110, 0.2}, {500, 0.2}});
  // A third of the way: (1 + cos 60 degrees) / 2 = 0.75.
  expect(config::Schedule::kCosine, 80, {{80, 1.0}, {90, 0.8}});
}

TEST(Schedule, Linear) {
  expect(config::Schedule::kLinear, 10,
         {{1, 0.1}, {10, 1.0}, {35, 0.8}, {60, 0.6}, {110, 0.2}, {500, 0.2}});
}

TEST(Schedule, Constant) {
  expect(config::Schedule::kConstant, 10, {{1, 0.1}, {10, 1.0}, {60, 1.0}, {500, 1.0}});
}

TEST(Schedule, WarmupStableDecay) {
  expect(config::Schedule::kWsd, 10,
         {{1, 0.1}, {10, 1.0}, {60, 1.0}, {90, 1.0}, {100, 0.6}, {110, 0.2}, {500, 0.2}});
}

// Protects: no division by zero.
TEST(Schedule, WithoutWarmup) {
  expect(config::Schedule::kLinear, 0, {{11, 0.92}, {55, 0.6}, {110, 0.2}});
  expect(config::Schedule::kCosine, 110, {{55, 0.5}, {110, 1.0}, {111, 0.2}});
}

}  // namespace
}  // namespace moesaic::train
