#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "model/observers.h"

namespace moesaic::model {

/// Activation statistics of the weights of products on this rank: for each column of w (N, K) or
/// (G, N, K) the sum of the squares of its inputs, which weighs the errors of that column.
class ActivationStatistics {
 public:
  struct Sums {
    std::vector<double> squares;     // (G, K)
    std::vector<std::int64_t> rows;  // (G)
  };

  /// Adds the inputs of every product. Not collective: join_sums sums over ranks.
  Observer observer();
  /// nullptr: it met nothing.
  const Sums* of(const Parameter& weight) const;

 private:
  void add(const LinearEvent& event);

  std::map<const Parameter*, Sums> sums_;
};

}  // namespace moesaic::model
