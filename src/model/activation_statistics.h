#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <vector>

#include "backend/backend.h"

namespace moesaic::model {

struct Parameter;

/// Activation statistics of the weights of products on this rank: for each column of w (N, K) or
/// (G, N, K) the sum of the squares of its inputs, which weighs the errors of that column.
class ActivationStatistics {
 public:
  struct Sums {
    std::vector<double> squares;     // (G, K)
    std::vector<std::int64_t> rows;  // (G)
  };

  /// Rows [offsets[g], offsets[g + 1]) of x (R, K) meet group g. Not collective: join_sums sums
  /// over ranks.
  void add(Backend& backend, const Tensor& x, std::span<const std::int64_t> offsets,
           const Parameter& weight);
  /// nullptr: it met nothing.
  const Sums* of(const Parameter& weight) const;

 private:
  std::map<const Parameter*, Sums> sums_;
};

}  // namespace moesaic::model
