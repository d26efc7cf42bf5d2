#pragma once

#include <cstddef>
#include <memory>

namespace moesaic::cpu {

/// Host memory in 64-byte aligned blocks, kept for reuse by size class when a tensor lets go of
/// them: the steady state of a training step allocates nothing.
class MemoryPool {
 public:
  MemoryPool();
  /// The block returns to the memory pool with its last owner, also after the MemoryPool is gone.
  std::shared_ptr<void> take(std::size_t bytes);
  std::size_t bytes_held() const;  // in use and in reserve
  void release_reserve();

 private:
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace moesaic::cpu
