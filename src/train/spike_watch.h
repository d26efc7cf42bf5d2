#pragma once

#include <cstddef>
#include <optional>
#include <vector>

namespace moesaic::train {

/// Finds losses far above those of the steps before.
class SpikeWatch {
 public:
  static constexpr std::size_t kWindow = 32;  // steps

  /// factor: a loss above so many times the median is a spike; 0: none is.
  explicit SpikeWatch(double factor) : factor_(factor) {}

  /// Takes the loss of the next step. Of a spike it returns the median of the kWindow steps before;
  /// there is none until these are full.
  std::optional<double> add(double loss);

 private:
  double factor_;
  std::vector<double> losses_;  // of the last kWindow steps, in a ring
  std::size_t next_ = 0;
};

}  // namespace moesaic::train
