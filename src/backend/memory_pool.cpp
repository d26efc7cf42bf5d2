#include "backend/memory_pool.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <map>
#include <mutex>
#include <set>
#include <utility>

#include "base/error.h"

namespace moesaic {
namespace {

std::size_t rounded(std::size_t bytes, std::size_t unit) {
  return (bytes + unit - 1) / unit * unit;
}

}  // namespace

struct MemoryPool::State {
  // Free memory between blocks in use. Its first `touched` bytes may have pages, the rest has none.
  struct Free {
    std::size_t size = 0, touched = 0;
  };
  using Place = std::map<std::byte*, Free>::iterator;

  MemorySource source;
  std::mutex mutex;
  std::map<std::byte*, Free> free;                       // by address; no two are neighbours
  std::set<std::pair<std::size_t, std::byte*>> by_size;  // the same
  std::byte* end = nullptr;                  // of the last range from the system: where it may grow
  std::map<std::byte*, std::size_t> ranges;  // where they can be given up as a whole alone
  std::size_t in_use = 0, reserve = 0, most = 0;

  explicit State(MemorySource from) : source(std::move(from)) {
    end = source.place_with_room ? source.place_with_room() : nullptr;
  }
  State(const State&) = delete;
  State& operator=(const State&) = delete;
  ~State() { unmap_reserve(); }  // no block is in use: each keeps this

  // All below with the lock held.

  bool releases() const { return source.release != nullptr; }

  // The part of a free place that the source takes back: how far it begins behind, and its size.
  std::pair<std::size_t, std::size_t> part_to_free(std::byte* place, std::size_t bytes) const {
    if (!releases()) {
      const auto range = ranges.find(place);
      const bool whole = range != ranges.end() && range->second == bytes + source.border;
      return {0, whole ? bytes : 0};
    }
    const auto address = reinterpret_cast<std::uintptr_t>(place);
    const std::size_t first = rounded(address, source.unit);
    const std::size_t last = (address + bytes) / source.unit * source.unit;
    return {first - address, first < last ? last - first : 0};
  }

  std::byte* map(std::byte* wanted, std::size_t bytes) const {
    std::byte* const place = source.allocate(wanted, bytes);
    if (place != nullptr && source.forbid) {
      source.forbid(place, bytes);
    }
    return place;
  }

  void unmap(std::byte* place, std::size_t bytes) const {
    if (source.allow) {
      source.allow(place, bytes);
    }
    source.free(place, bytes);
  }

  void insert(std::byte* place, Free block) {
    const auto next = free.lower_bound(place);
    if (next != free.end() && place + block.size == next->first) {
      block.touched = next->second.touched > 0 ? block.size + next->second.touched : block.touched;
      block.size += next->second.size;
      erase(next);
    }
    const auto after = free.lower_bound(place);
    if (after != free.begin()) {
      const auto before = std::prev(after);
      if (before->first + before->second.size == place) {
        place = before->first;
        block.touched =
            block.touched > 0 ? before->second.size + block.touched : before->second.touched;
        block.size += before->second.size;
        erase(before);
      }
    }
    free.emplace(place, block);
    by_size.emplace(block.size, place);
    reserve += block.touched;
  }

  void erase(Place block) {
    reserve -= block->second.touched;
    by_size.erase({block->second.size, block->first});
    free.erase(block);
  }

  // Where pages can be released.
  void release(Place block) {
    auto& [place, memory] = *block;
    // The page that the touched part ends in is free to its end, if the block is.
    const auto address = reinterpret_cast<std::uintptr_t>(place);
    const std::size_t touched = rounded(address + memory.touched, source.unit) - address;
    const auto [begin, bytes] = part_to_free(place, std::min(memory.size, touched));
    if (bytes > 0) {
      source.release(place + begin, bytes);
    }
    reserve -= memory.touched;
    memory.touched = 0;
  }

  // The largest first, until at most `bytes` are in reserve.
  void shrink(std::size_t bytes) {
    if (!releases()) {
      return;
    }
    for (auto largest = by_size.rbegin(); largest != by_size.rend() && reserve > bytes; ++largest) {
      release(free.find(largest->second));
    }
  }

  // Gives up the addresses as well.
  void unmap_reserve() {
    for (const auto& [place, memory] : std::map(free)) {
      const auto [begin, bytes] = part_to_free(place, memory.size);
      if (bytes == 0) {
        continue;
      }
      unmap(place + begin, releases() ? bytes : ranges.extract(place).mapped());
      erase(free.find(place));
      const std::size_t rest = memory.size - begin - bytes;
      for (const auto& [part, size] : {std::pair(place, begin), {place + begin + bytes, rest}}) {
        if (size > 0) {
          insert(part, {.size = size, .touched = size});
        }
      }
    }
  }

  // Adds free memory for a block of `size`; false: there is none.
  bool grow(std::size_t size) { return releases() ? grow_in_place(size) : add_range(size); }

  std::size_t range_for(std::size_t bytes) const {
    return rounded(std::max(bytes, source.growth(in_use)), source.unit);
  }

  bool grow_in_place(std::size_t size) {
    const auto last = free.empty() ? free.end() : std::prev(free.end());
    const bool joins = last != free.end() && last->first + last->second.size == end;
    std::size_t bytes = range_for(size - (joins ? last->second.size : 0));
    std::byte* place = map(end, bytes);
    if (joins && place != nullptr && place != end) {  // something else is there
      unmap(place, bytes);
      bytes = range_for(size);
      place = map(nullptr, bytes);
    }
    if (place == nullptr) {
      return false;
    }
    end = place + bytes;
    insert(place, {.size = bytes});
    return true;
  }

  // Its last bytes are never used, so that no block reaches from one range into another.
  bool add_range(std::size_t size) {
    std::size_t bytes = range_for(size + source.border);
    std::byte* place = map(nullptr, bytes);
    if (place == nullptr) {
      bytes = rounded(size + source.border, source.unit);
      place = map(nullptr, bytes);
    }
    if (place == nullptr) {
      return false;
    }
    ranges.emplace(place, bytes);
    insert(place, {.size = bytes - source.border, .touched = bytes - source.border});
    return true;
  }

  std::byte* take(std::size_t size) {
    const std::lock_guard lock(mutex);
    auto found = by_size.lower_bound({size, nullptr});
    if (found == by_size.end()) {
      bool grown = grow(size);
      if (!grown) {  // free memory that is too small may stand in the way
        unmap_reserve();
        grown = grow(size);
      }
      if (!grown) {
        throw Error(Exit::kInternal, fmt::format("out of {}: {} bytes wanted, {} in use",
                                                 source.name, size, in_use));
      }
      found = by_size.lower_bound({size, nullptr});
    }
    const auto block = free.find(found->second);
    std::byte* const place = block->first;
    const Free whole = block->second;
    erase(block);
    if (whole.size > size) {
      insert(place + size, {.size = whole.size - size,
                            .touched = whole.touched > size ? whole.touched - size : 0});
    }
    in_use += size;
    most = std::max(most, in_use);
    shrink(most - in_use + bound(most));
    if (source.allow) {
      source.allow(place, size - source.gap);
    }
    return place;
  }

  void give(std::byte* place, std::size_t size) {
    const std::lock_guard lock(mutex);
    if (source.forbid) {
      source.forbid(place, size);
    }
    in_use -= size;
    insert(place, {.size = size, .touched = size});
    shrink(most - in_use + bound(most));
  }
};

MemoryPool::MemoryPool(MemorySource source) : state_(std::make_shared<State>(std::move(source))) {}

std::shared_ptr<void> MemoryPool::take(std::size_t bytes) {
  const MemorySource& source = state_->source;
  const std::size_t size = rounded(std::max<std::size_t>(bytes, 1), source.border) + source.gap;
  std::byte* const place = state_->take(size);
  return {place, [state = state_, size](void* block) {
            state->give(static_cast<std::byte*>(block), size);
          }};
}

std::size_t MemoryPool::bytes_held() const {
  const std::lock_guard lock(state_->mutex);
  return state_->in_use + state_->reserve;
}

std::size_t MemoryPool::most_in_use() const {
  const std::lock_guard lock(state_->mutex);
  return state_->most;
}

std::size_t MemoryPool::bound(std::size_t most_in_use) {
  return std::max(most_in_use / 8, std::size_t{1} << 22U);
}

void MemoryPool::release_reserve() {
  const std::lock_guard lock(state_->mutex);
  if (state_->releases()) {
    state_->shrink(0);
  } else {
    state_->unmap_reserve();
  }
  state_->most = state_->in_use;
}

}  // namespace moesaic
