#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>

namespace moesaic {

/// Where a memory pool has its ranges of addresses from.
struct MemorySource {
  std::string name;         // of the memory, in messages
  std::size_t border = 64;  // blocks begin on one
  std::size_t gap = 0;      // between blocks, so that running over the end is seen
  std::size_t unit = 1;     // ranges have a multiple of it
  /// The least that is taken at once, with so much in use.
  std::function<std::size_t(std::size_t in_use)> growth;
  /// Where a first range has the most room to grow; empty: anywhere.
  std::function<std::byte*()> place_with_room;
  /// A range, at `wanted` if that is possible; nullptr: there is none.
  std::function<std::byte*(std::byte* wanted, std::size_t bytes)> allocate;
  std::function<void(std::byte* place, std::size_t bytes)> free;
  /// Gives up the memory of whole units, but not their addresses; it comes back when it is written
  /// to. Empty: memory is there from the beginning, and only whole ranges can be given up.
  std::function<void(std::byte* place, std::size_t bytes)> release;
  /// What nobody owns, and what somebody does: for checks.
  std::function<void(const void*place, std::size_t bytes)> forbid, allow;
};

/// Memory for tensors, in blocks cut from ranges of addresses, the smallest free place that is
/// large enough first, and joined with their free neighbours when a tensor lets go of them. So
/// memory serves blocks of any size, and the steady state of a training step takes none from its
/// source. What is free stays for the next blocks: where pages can be released, up to a bound;
/// otherwise until release_reserve() or until there is no more.
class MemoryPool {
 public:
  explicit MemoryPool(MemorySource source);
  /// The block returns to the memory pool with its last owner, also after the MemoryPool is gone.
  /// Throws Error(kInternal) if the source has no more memory.
  std::shared_ptr<void> take(std::size_t bytes);
  /// Bytes in use and in reserve. Where pages can be released, at most most_in_use() +
  /// bound(most_in_use()), but for parts of pages.
  std::size_t bytes_held() const;
  /// The most bytes that were in use at the same time, since the reserve was last released.
  std::size_t most_in_use() const;
  /// Gives the whole reserve back to the source.
  void release_reserve();

  /// Bytes that may be held beyond the most that was in use: an eighth of it, or 4 MiB.
  static std::size_t bound(std::size_t most_in_use);

 private:
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace moesaic
