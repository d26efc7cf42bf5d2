#pragma once

#include <vector>

#include "engine/instance.h"

namespace moesaic::train {

/// Sums one step's gradients over the ranks that hold the same parameters, a bucket as soon as it
/// is complete, while backward goes on. With the updates shared out (ZeRO) each rank gets the sum
/// of its own share alone.
class GradientSum {
 public:
  explicit GradientSum(engine::Instance& instance);

  /// No more will be added to the gradients of a part of the model. Collective over its group.
  void part_done(int part);
  /// Collective over the mesh: the rest; all sums are there afterwards.
  void finish();

 private:
  void start(std::size_t bucket);
  void sum_copies(const model::Parameter& p);

  engine::Instance& instance_;
  std::vector<int> missing_;  // parts of each bucket that are not done
  std::vector<bool> started_;
};

}  // namespace moesaic::train
