#pragma once

#include <optional>
#include <span>

namespace moesaic {

/// Finds the rank that the others wait for: five steps in a row with half as much work again as the
/// median rank, or one step that took ten times as long and five seconds more.
class StragglerWatch {
 public:
  struct Finding {
    int rank = 0;
    double seconds = 0.0, median = 0.0;  // of this step
  };
  /// rank_seconds: of each rank's work in a step, waiting left out. Each case is reported once,
  /// until that rank has kept up for a step.
  std::optional<Finding> add(std::span<const double> rank_seconds);

 private:
  int rank_ = -1;
  int steps_ = 0;  // that it was slow in a row
  bool reported_ = false;
};

}  // namespace moesaic
