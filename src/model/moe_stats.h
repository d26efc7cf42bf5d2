#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "backend/transfer.h"
#include "comm/communicator.h"
#include "model/observers.h"

namespace moesaic::model {

/// What the MoE layers count over the micro-batches of a step, for L MoE layers, E experts, N tasks
/// (task 0 = none) and K choices at most. Sums, so that ranks and micro-batches add up; exact in
/// double.
class MoeStats {
 public:
  MoeStats(std::int64_t layers, std::int64_t experts, std::int64_t tasks, std::int64_t top_k);

  std::int64_t layers() const { return layers_; }
  std::int64_t experts() const { return experts_; }
  std::int64_t tasks() const { return tasks_; }
  std::int64_t top_k() const { return top_k_; }

  // One row for each layer.
  std::span<double> chosen(std::int64_t layer) { return part(0, layer); }     // [E] by the router
  std::span<double> dropped(std::int64_t layer) { return part(1, layer); }    // [E]
  std::span<double> processed(std::int64_t layer) { return part(2, layer); }  // [E]
  std::span<double> slots(std::int64_t layer) { return part(3, layer); }      // [E]
  std::span<double> rerouted(std::int64_t layer) { return part(4, layer); }   // [E] where chosen
  std::span<double> by_task(std::int64_t layer);                              // [N, E] chosen
  /// Tokens that chose 1 .. K experts.
  std::span<double> choices_by_task(std::int64_t layer);  // [N, K]
  /// Sums over tokens: auxiliary loss, z-loss, entropy (nats) of the gate.
  std::span<double> sums(std::int64_t layer);  // [3]

  /// Keeps what the layers tell, where this rank must: choices on the first rank of tp and cp, as
  /// all of them have the same, and sums over tokens on the rank of tp that routes them, those of
  /// all of cp on its first. Collective over cp where there is much of it.
  Observer observer();
  /// Counts what was kept, which the host waits for once. Collective over cp.
  void resolve(const Device& device);

  /// All of it, to be summed over ranks.
  std::span<double> all() { return values_; }
  void clear();

 private:
  struct Gate {
    std::int64_t regular;
    Tensor shares, sums, load;          // of RouteTensors, and of GateEvent
    std::vector<std::int32_t> segment;  // [T]; empty: one
  };
  struct Route {
    Tensor counts;  // (3, E), without a plan
    std::optional<routing::DispatchPlan> plan;
    std::vector<bool> open;  // [E] whether the expert takes choices in any case
    std::int64_t slots;
    std::vector<std::uint8_t> task;  // [T]
  };
  // What a layer told of a micro-batch: one of the two.
  struct Pending {
    std::int64_t layer;
    std::optional<Gate> gate = {};
    std::optional<Route> route = {};
    Tensor choice;          // (T, K)
    std::size_t first = 0;  // of its tensors, among the copies
  };

  std::int64_t width() const;  // of a layer
  std::span<double> part(std::int64_t which, std::int64_t layer);
  void count_gate(const GateEvent& event);
  void count_choices(const RouteEvent& event);
  std::vector<double> load_fraction(const HostCopies& copies, const Pending& pending) const;
  void add_gates(const HostCopies& copies, const comm::Communicator& cp);
  void add_route(const HostCopies& copies, const Pending& pending);
  void add_tasks(std::span<const std::int32_t> chosen, const Pending& pending);

  std::int64_t layers_, experts_, tasks_, top_k_;
  std::vector<Pending> pending_;
  std::size_t pending_bytes_ = 0;
  std::vector<double> values_;  // per layer: 5 E counts, N E and N K by task, 3 sums
};

}  // namespace moesaic::model
