#include "backend/cpu/pool.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <mutex>
#include <unordered_map>
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

struct Pool::State {
  std::mutex mutex;
  std::unordered_map<std::size_t, std::vector<void*>> free;
  std::size_t held = 0;

  State() = default;
  State(const State&) = delete;
  State& operator=(const State&) = delete;
  ~State() {
    for (const auto& [size, blocks] : free) {
      for (void* block : blocks) {
        std::free(block);
      }
    }
  }

  void* take(std::size_t size) {
    const std::lock_guard lock(mutex);
    auto& blocks = free[size];
    if (!blocks.empty()) {
      void* block = blocks.back();
      blocks.pop_back();
      return block;
    }
    void* block = std::aligned_alloc(64, size);
    require(block != nullptr, fmt::format("out of memory: {} bytes wanted, {} held", size, held));
    held += size;
    return block;
  }

  void give(void* block, std::size_t size) {
    const std::lock_guard lock(mutex);
    free[size].push_back(block);
  }
};

Pool::Pool() : state_(std::make_shared<State>()) {}

std::shared_ptr<void> Pool::take(std::size_t bytes) {
  const std::size_t size = size_class(bytes);
  return {state_->take(size), [state = state_, size](void* block) { state->give(block, size); }};
}

std::size_t Pool::bytes_held() const {
  const std::lock_guard lock(state_->mutex);
  return state_->held;
}

}  // namespace moesaic::cpu
