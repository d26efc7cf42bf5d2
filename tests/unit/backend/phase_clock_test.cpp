// Protects the phases of a trace: seconds of the device, for which nobody waits.
#include "backend/phase_clock.h"

#include <gtest/gtest.h>

#include <memory>
#include <numeric>
#include <thread>

#include "backend/cpu/cpu_backend.h"

namespace moesaic::testing {
namespace {

// A device that comes to its work later than the host asks for it.
class LateDevice : public cpu::CpuBackend {
 public:
  LateDevice() : CpuBackend(1, cpu::best_kernels()) {}

  void work(double seconds) { done_ += seconds; }
  Mark mark() override { return {.time = {}, .event = std::make_shared<double>(done_)}; }
  double seconds(const Mark& from, const Mark& to) override {
    ++asked;
    return time(to) - time(from);
  }

  int asked = 0;

 private:
  static double time(const Mark& mark) { return *static_cast<const double*>(mark.event.get()); }
  double done_ = 100.0;
};

double sum(const PhaseClock::Seconds& seconds) {
  return std::accumulate(seconds.begin(), seconds.end(), 0.0);
}

double of(const PhaseClock::Seconds& seconds, Phase phase) {
  return seconds[static_cast<std::size_t>(phase)];
}

TEST(PhaseClock, BooksTheDevicesSeconds) {
  LateDevice device;
  PhaseClock clock(&device);
  device.work(0.5);
  {
    const PhaseScope forward(clock, Phase::kForward);
    device.work(2.0);
    {
      const PhaseScope router(clock, Phase::kRouter);
      EXPECT_EQ(clock.phase(), Phase::kRouter);
      device.work(0.25);
    }
    device.work(4.0);
  }
  EXPECT_EQ(device.asked, 0);
  EXPECT_EQ(clock.phase(), Phase::kOther);
  const PhaseClock::Seconds seconds = clock.take();
  EXPECT_GT(device.asked, 0);
  EXPECT_EQ(of(seconds, Phase::kForward), 6.0);
  EXPECT_EQ(of(seconds, Phase::kRouter), 0.25);
  EXPECT_EQ(of(seconds, Phase::kOther), 0.5);
  EXPECT_EQ(sum(seconds), 6.75);
  device.work(1.0);
  EXPECT_EQ(sum(clock.take()), 1.0);
}

// What nobody takes does not grow without end.
TEST(PhaseClock, KeepsFewMarks) {
  LateDevice device;
  PhaseClock clock(&device);
  for (int i = 0; i < 100'000; ++i) {
    clock.enter(i % 2 == 0 ? Phase::kForward : Phase::kBackward);
    device.work(1.0);
  }
  EXPECT_GT(device.asked, 50'000);
  const PhaseClock::Seconds seconds = clock.take();
  EXPECT_EQ(of(seconds, Phase::kForward), 50'000.0);
  EXPECT_EQ(of(seconds, Phase::kBackward), 50'000.0);
}

TEST(PhaseClock, OnTheHostItIsTheHostsTime) {
  cpu::CpuBackend backend(1, cpu::best_kernels());
  for (Backend* const on : {static_cast<Backend*>(&backend), static_cast<Backend*>(nullptr)}) {
    PhaseClock clock(on);
    const Mark begin = backend.mark();
    {
      const PhaseScope phase(clock, Phase::kOptimizer);
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    const double all = backend.seconds(begin, backend.mark());
    const PhaseClock::Seconds seconds = clock.take();
    EXPECT_GE(of(seconds, Phase::kOptimizer), 0.005);
    EXPECT_LE(of(seconds, Phase::kOptimizer), all);
  }
}

}  // namespace
}  // namespace moesaic::testing
