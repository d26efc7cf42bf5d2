#pragma once

#include <algorithm>

#include "base/log.h"
#include "base/timer.h"

namespace moesaic {

/// How fast a job is, smoothed over its steps, and when the next line about it is due: ten times a
/// second on a terminal, else every five seconds.
class Pace {
 public:
  /// tokens/s after a step.
  double add(double tokens, double seconds) {
    const double now = tokens / std::max(1e-9, seconds);
    speed_ = speed_ == 0.0 ? now : 0.9 * speed_ + 0.1 * now;
    return speed_;
  }
  bool line_is_due() {
    const bool due = since_line_.seconds() >= (log::is_terminal() ? 0.1 : 5.0);
    if (due) {
      since_line_.restart();
    }
    return due;
  }

 private:
  double speed_ = 0.0;
  Timer since_line_;
};

}  // namespace moesaic
