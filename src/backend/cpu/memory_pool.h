#pragma once

#include <cstddef>
#include <memory>

namespace moesaic::cpu {

/// Host memory for tensors, in blocks on a border of 64 bytes. Blocks are cut from ranges of
/// addresses, the smallest free place that is large enough first, and joined with their free
/// neighbours when a tensor lets go of them. So memory serves blocks of any size, and the steady
/// state of a training step takes none from the system. What is free stays for the next blocks up
/// to a bound; beyond it, its pages go back to the system.
class MemoryPool {
 public:
  MemoryPool();
  /// The block returns to the memory pool with its last owner, also after the MemoryPool is gone.
  /// Throws Error(kInternal) if the system has no more memory.
  std::shared_ptr<void> take(std::size_t bytes);
  /// Bytes in use and in reserve. At most most_in_use() + bound(most_in_use()), but for parts of
  /// pages.
  std::size_t bytes_held() const;
  /// The most bytes that were in use at the same time, since the reserve was last released.
  std::size_t most_in_use() const;
  /// Gives all pages of the reserve back to the system.
  void release_reserve();

  /// Bytes that may be held beyond the most that was in use: an eighth of it, or 4 MiB.
  static std::size_t bound(std::size_t most_in_use);

 private:
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace moesaic::cpu
