#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <utility>
#include <vector>

#include "backend/backend.h"

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

/// Books the time since the last change on the phase that was current: of the work that a backend
/// was asked for meanwhile, so that nothing waits for a device before the seconds are taken. The
/// phase may be read from another thread.
class PhaseClock {
 public:
  using Seconds = std::array<double, kPhaseCount>;

  /// The backend must outlive it; without one it is the time of the host.
  explicit PhaseClock(Backend* backend = nullptr) : backend_(backend), since_(now()) {}

  void enter(Phase phase) {
    Mark mark = now();
    if (mark.event == nullptr) {
      book(this->phase(), std::chrono::duration<double>(mark.time - since_.time).count());
    } else {
      spans_.push_back({this->phase(), since_, mark});
    }
    if (spans_.size() >= kMostSpans) {
      resolve();
    }
    since_ = std::move(mark);
    phase_.store(phase, std::memory_order_relaxed);
  }
  Phase phase() const { return phase_.load(std::memory_order_relaxed); }

  /// The seconds booked since the last call, and starts again from zero.
  Seconds take() {
    enter(phase());
    resolve();
    return std::exchange(seconds_, {});
  }

 private:
  struct Span {
    Phase phase;
    Mark from, to;
  };
  static constexpr std::size_t kMostSpans = 1 << 16;

  Mark now() const {
    return backend_ != nullptr ? backend_->mark() : Mark{std::chrono::steady_clock::now(), {}};
  }
  void book(Phase phase, double seconds) { seconds_[static_cast<std::size_t>(phase)] += seconds; }
  void resolve() {
    for (const Span& span : spans_) {
      book(span.phase, backend_->seconds(span.from, span.to));
    }
    spans_.clear();
  }

  Backend* backend_;
  std::atomic<Phase> phase_ = Phase::kOther;
  Mark since_;
  std::vector<Span> spans_;  // of a device, whose seconds nobody has asked for yet
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
