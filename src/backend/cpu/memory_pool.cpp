#include "backend/cpu/memory_pool.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <map>
#include <mutex>
#include <utility>
#include <vector>

#include "base/error.h"

namespace moesaic::cpu {
namespace {

// Size classes: eighths of a power of two, so that at most 1/8 is wasted.
std::size_t size_class(std::size_t bytes) {
  const std::size_t least = std::max<std::size_t>(bytes, 64);
  const std::size_t step = std::max<std::size_t>(std::bit_floor(least) / 8, 64);
  return (least + step - 1) / step * step;
}

}  // namespace

struct MemoryPool::State {
  std::mutex mutex;
  std::map<std::size_t, std::vector<void*>> free;  // by size; none of the lists is empty
  std::size_t held = 0;

  State() = default;
  State(const State&) = delete;
  State& operator=(const State&) = delete;
  ~State() { release_reserve(); }

  void release_reserve() {
    const std::lock_guard lock(mutex);
    release();
  }

  // With the lock held.
  void release() {
    for (const auto& [size, blocks] : free) {
      for (void* block : blocks) {
        std::free(block);
        held -= size;
      }
    }
    free.clear();
  }

  // At least `size` bytes; takes a free block that is up to half as large again, as sizes follow
  // the experts' loads and hardly ever come back.
  std::pair<void*, std::size_t> take(std::size_t size) {
    const std::lock_guard lock(mutex);
    if (const auto found = free.lower_bound(size);
        found != free.end() && found->first <= size + size / 2) {
      const std::pair<void*, std::size_t> block = {found->second.back(), found->first};
      found->second.pop_back();
      if (found->second.empty()) {
        free.erase(found);
      }
      return block;
    }
    void* block = std::aligned_alloc(64, size);
    if (block == nullptr) {  // blocks of other sizes may stand in the way
      release();
      block = std::aligned_alloc(64, size);
    }
    if (block == nullptr) {
      throw Error(Exit::kInternal,
                  fmt::format("out of memory: {} bytes wanted, {} held", size, held));
    }
    held += size;
    return {block, size};
  }

  void give(void* block, std::size_t size) {
    const std::lock_guard lock(mutex);
    free[size].push_back(block);
  }
};

MemoryPool::MemoryPool() : state_(std::make_shared<State>()) {}

std::shared_ptr<void> MemoryPool::take(std::size_t bytes) {
  const auto [taken, size] = state_->take(size_class(bytes));
  return {taken, [state = state_, size = size](void* block) { state->give(block, size); }};
}

std::size_t MemoryPool::bytes_held() const {
  const std::lock_guard lock(state_->mutex);
  return state_->held;
}

void MemoryPool::release_reserve() { state_->release_reserve(); }

}  // namespace moesaic::cpu
