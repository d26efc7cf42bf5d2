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
  /// losses: of the last steps, in their order, as losses() had them.
  SpikeWatch(double factor, std::vector<double> losses);

  /// Takes the loss of the next step. On a spike it returns the median of the kWindow losses before
  /// it; there is no spike until these are full.
  std::optional<double> add(double loss);
  /// The losses of the last kWindow steps, or of fewer.
  const std::vector<double>& losses() const { return losses_; }

 private:
  double factor_;
  std::vector<double> losses_;
};

}  // namespace moesaic::train
