#pragma once

#include <vector>

#include "config/config.h"
#include "model/context.h"
#include "model/parameter/parameters.h"

namespace moesaic::model {

/// Rotary positions (Su et al. 2021), with frequencies as they are or stretched for contexts longer
/// than trained: all of them, or by YaRN (Peng et al. 2024, section 3.2 to 3.4).
class Rope {
 public:
  /// width: of what is rotated of a head.
  Rope(Parameters& parameters, const config::Model& model, std::int64_t width);

  /// x: (T, W); the first `width` of each group's elements are rotated in place, or back.
  void rotate(Context& ctx, const Tensor& x, RowGroups heads, Direction direction) const;

  /// Angle per position of each pair.
  const std::vector<float>& frequencies() const { return frequencies_.values; }
  /// Factor on rotated queries and keys.
  float magnitude() const { return options_.magnitude; }

 private:
  std::int64_t width_;
  const Constant& frequencies_;  // (width / 2)
  RopeOptions options_;
};

/// Factor that YaRN puts on the scores of latent attention, beside 1 / sqrt(width); 1 without it.
double yarn_score_factor(const config::Model& model);

}  // namespace moesaic::model
