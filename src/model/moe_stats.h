#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace moesaic::model {

/// What the MoE layers count over the micro-batches of a step, for L MoE layers, E experts and
/// N tasks (task 0 = none). Sums, so that ranks and micro-batches add up; exact in double.
class MoeStats {
 public:
  MoeStats(std::int64_t layers, std::int64_t experts, std::int64_t tasks);

  std::int64_t layers() const { return layers_; }
  std::int64_t experts() const { return experts_; }
  std::int64_t tasks() const { return tasks_; }

  // One row for each layer.
  std::span<double> chosen(std::int64_t layer) { return part(0, layer); }     // [E] by the router
  std::span<double> dropped(std::int64_t layer) { return part(1, layer); }    // [E]
  std::span<double> processed(std::int64_t layer) { return part(2, layer); }  // [E]
  std::span<double> slots(std::int64_t layer) { return part(3, layer); }      // [E]
  std::span<double> by_task(std::int64_t layer);                              // [N, E] chosen
  /// Sums over tokens: auxiliary loss, z-loss, entropy (nats) of the gate.
  std::span<double> sums(std::int64_t layer);  // [3]

  /// All of it, to be summed over ranks.
  std::span<double> all() { return values_; }
  void clear();

 private:
  std::span<double> part(std::int64_t which, std::int64_t layer);

  std::int64_t layers_, experts_, tasks_;
  std::vector<double> values_;  // per layer: 4 E counts, N E by task, 3 sums
};

}  // namespace moesaic::model
