#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/instance.h"

namespace moesaic::train {

/// A tensor of which ranks that should hold the same part hold different bits.
struct ReplicaDifference {
  std::string tensor;
  std::vector<int> ranks;  // of the world, in the minority; all holders where there is none
  std::string message;     // with their hosts
};

/// Compares hashes of every tensor (values, and moments that are not shared out) over the ranks
/// that hold the same part of it. Collective over the mesh; the same answer on every rank.
std::optional<ReplicaDifference> compare_replicas(engine::Instance& instance);

/// A 64-bit hash of a stream of bytes; any single bit that flips changes it.
class BitHash {
 public:
  /// All pieces but the last have a multiple of 32 bytes.
  void add(std::span<const std::byte> bytes);
  std::uint64_t value() const;

 private:
  std::array<std::uint64_t, 4> lanes_ = {
      1, 2, 3, 4};  // independent, so that a processor works on all at once
  std::uint64_t bytes_ = 0;
};

}  // namespace moesaic::train
