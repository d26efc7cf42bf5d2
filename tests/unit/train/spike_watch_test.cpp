#include "train/spike_watch.h"

#include <gtest/gtest.h>

namespace moesaic::train {
namespace {

// Protects: a jump is found against the median of the window, not before it is full, and neither
// the jump itself nor a slow rise is taken for the next one.
TEST(SpikeWatch, AboveTheMedian) {
  SpikeWatch watch(1.5, {});
  for (int step = 0; step < 31; ++step) {
    EXPECT_FALSE(watch.add(step == 3 ? 90.0 : 2.0));
  }
  EXPECT_FALSE(watch.add(90.0));  // the 32nd: the window is not full
  EXPECT_FALSE(watch.add(3.0));
  EXPECT_EQ(watch.add(3.01), 2.0);
  EXPECT_FALSE(watch.add(2.0));
  double loss = 2.0;
  for (int step = 0; step < 200; ++step) {
    EXPECT_FALSE(watch.add(loss *= 1.01)) << step;
  }
}

// Protects: a run that goes on sees what the one before it would have seen, from its first step on.
TEST(SpikeWatch, GoesOn) {
  SpikeWatch before(1.5, {});
  for (int step = 0; step < 50; ++step) {
    before.add(2.0);
  }
  EXPECT_EQ(before.losses().size(), SpikeWatch::kWindow);
  SpikeWatch after(1.5, before.losses());
  EXPECT_EQ(after.add(3.01), 2.0);
  EXPECT_EQ(after.losses().back(), 3.01);
  std::vector<double> many(100, 1.0);
  EXPECT_EQ(SpikeWatch(1.5, many).losses().size(), SpikeWatch::kWindow);
}

// Protects: 0 watches nothing.
TEST(SpikeWatch, Off) {
  SpikeWatch watch(0.0, {});
  for (int step = 0; step < 40; ++step) {
    EXPECT_FALSE(watch.add(step));
  }
}

}  // namespace
}  // namespace moesaic::train
