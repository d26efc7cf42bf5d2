#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>

namespace moesaic {

/// What a step spends its time on; exclusive, so that the phases sum to the step's seconds.
/// router (with the plan and the counts), dispatch, experts and combine hold both directions of the
/// pass.
enum class Phase : std::size_t {
  kData,
  kForward,
  kRouter,
  kDispatch,
  kExperts,
  kCombine,
  kBackward,
  kGradReduce,
  kOptimizer,
  kCheckpoint,
  kEval,
  kOther,
};
constexpr std::size_t kPhaseCount = 12;
constexpr std::array<const char*, kPhaseCount> kPhaseNames = {
    "data",     "forward",     "router",    "dispatch",   "experts", "combine",
    "backward", "grad_reduce", "optimizer", "checkpoint", "eval",    "other"};

/// Books the time since the last change on the phase that was current. The phase may be read from
/// another thread.
class PhaseClock {
 public:
  using Seconds = std::array<double, kPhaseCount>;

  void enter(Phase phase) {
    const auto now = Clock::now();
    seconds_[index()] += std::chrono::duration<double>(now - since_).count();
    since_ = now;
    phase_.store(phase, std::memory_order_relaxed);
  }
  Phase phase() const { return phase_.load(std::memory_order_relaxed); }

  /// The seconds booked since the last call, and starts again from zero.
  Seconds take() {
    enter(phase());
    const Seconds taken = seconds_;
    seconds_ = {};
    return taken;
  }

 private:
  using Clock = std::chrono::steady_clock;
  std::size_t index() const { return static_cast<std::size_t>(phase()); }

  std::atomic<Phase> phase_ = Phase::kOther;
  Clock::time_point since_ = Clock::now();
  Seconds seconds_{};
};

/// A phase for the length of a scope; the one before comes back after it.
class PhaseScope {
 public:
  PhaseScope(PhaseClock& clock, Phase phase) : clock_(clock), before_(clock.phase()) {
    clock_.enter(phase);
  }
  ~PhaseScope() { clock_.enter(before_); }
  PhaseScope(const PhaseScope&) = delete;
  PhaseScope& operator=(const PhaseScope&) = delete;

 private:
  PhaseClock& clock_;
  Phase before_;
};

}  // namespace moesaic
