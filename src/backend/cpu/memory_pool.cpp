#include "backend/cpu/memory_pool.h"

#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <map>
#include <mutex>
#include <set>
#include <utility>

#include "base/error.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif

namespace moesaic::cpu {
namespace {

constexpr std::size_t kBorder = 64;
constexpr std::size_t kGrowth = std::size_t{1} << 22U;  // addresses taken at once, at least
#ifdef __SANITIZE_ADDRESS__
constexpr std::size_t kGap = kBorder;  // between blocks, so that running over the end is seen
void poison(const void* place, std::size_t bytes) { __asan_poison_memory_region(place, bytes); }
void unpoison(const void* place, std::size_t bytes) { __asan_unpoison_memory_region(place, bytes); }
#else
constexpr std::size_t kGap = 0;
void poison(const void* /*place*/, std::size_t /*bytes*/) {}
void unpoison(const void* /*place*/, std::size_t /*bytes*/) {}
#endif

std::size_t rounded(std::size_t bytes, std::size_t unit) {
  return (bytes + unit - 1) / unit * unit;
}

std::size_t page_size() {
  static const auto size = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  return size;
}

// Where 1 TiB of addresses is free, so that the pool's range can grow in place; nullptr: anywhere.
std::byte* place_with_room() {
  constexpr std::size_t kRoom = std::size_t{1} << 40U;
  void* const place = mmap(nullptr, kRoom, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (place == MAP_FAILED) {
    return nullptr;
  }
  munmap(place, kRoom);
  return static_cast<std::byte*>(place);
}

// `bytes` of pages that are zero and not there yet, at `wanted` if that is free; nullptr: none.
std::byte* map_pages(std::byte* wanted, std::size_t bytes) {
  void* const place =
      mmap(wanted, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (place == MAP_FAILED) {
    return nullptr;
  }
  poison(place, bytes);
  return static_cast<std::byte*>(place);
}

void unmap(std::byte* place, std::size_t bytes) {
  unpoison(place, bytes);
  munmap(place, bytes);
}

// The part of [place, place + bytes) that is whole pages: how far it begins behind, and its size.
std::pair<std::size_t, std::size_t> whole_pages(const std::byte* place, std::size_t bytes) {
  const auto address = reinterpret_cast<std::uintptr_t>(place);
  const std::size_t first = rounded(address, page_size());
  const std::size_t last = (address + bytes) / page_size() * page_size();
  return {first - address, first < last ? last - first : 0};
}

}  // namespace

struct MemoryPool::State {
  // Free memory between blocks in use. Its first `touched` bytes may have pages, the rest has none.
  struct Free {
    std::size_t size = 0, touched = 0;
  };
  using Place = std::map<std::byte*, Free>::iterator;

  std::mutex mutex;
  std::map<std::byte*, Free> free;                       // by address; no two are neighbours
  std::set<std::pair<std::size_t, std::byte*>> by_size;  // the same
  std::byte* end = nullptr;  // of the last range from the system: where it may grow
  std::size_t in_use = 0, reserve = 0, most = 0;

  State() : end(place_with_room()) {}
  State(const State&) = delete;
  State& operator=(const State&) = delete;
  ~State() { unmap_reserve(); }  // no block is in use: each keeps this

  // All below with the lock held.

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

  void release(Place block) {
    auto& [place, memory] = *block;
    // The page that the touched part ends in is free to its end, if the block is.
    const auto address = reinterpret_cast<std::uintptr_t>(place);
    const std::size_t touched = rounded(address + memory.touched, page_size()) - address;
    const auto [begin, bytes] = whole_pages(place, std::min(memory.size, touched));
    if (bytes > 0) {
      madvise(place + begin, bytes, MADV_DONTNEED);
    }
    reserve -= memory.touched;
    memory.touched = 0;
  }

  // The largest first, until at most `bytes` are in reserve.
  void shrink(std::size_t bytes) {
    for (auto largest = by_size.rbegin(); largest != by_size.rend() && reserve > bytes; ++largest) {
      release(free.find(largest->second));
    }
  }

  // Gives up the addresses as well.
  void unmap_reserve() {
    for (const auto& [place, memory] : std::map(free)) {
      const auto [begin, bytes] = whole_pages(place, memory.size);
      if (bytes == 0) {
        continue;
      }
      unmap(place + begin, bytes);
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
  bool grow(std::size_t size) {
    const auto last = free.empty() ? free.end() : std::prev(free.end());
    const bool joins = last != free.end() && last->first + last->second.size == end;
    const auto pages = [](std::size_t bytes) {
      return rounded(std::max(bytes, kGrowth), page_size());
    };
    std::size_t bytes = pages(size - (joins ? last->second.size : 0));
    std::byte* place = map_pages(end, bytes);
    if (joins && place != nullptr && place != end) {  // something else is there
      unmap(place, bytes);
      bytes = pages(size);
      place = map_pages(nullptr, bytes);
    }
    if (place == nullptr) {
      return false;
    }
    end = place + bytes;
    insert(place, {.size = bytes});
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
        throw Error(Exit::kInternal,
                    fmt::format("out of memory: {} bytes wanted, {} in use", size, in_use));
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
    unpoison(place, size - kGap);
    return place;
  }

  void give(std::byte* place, std::size_t size) {
    const std::lock_guard lock(mutex);
    poison(place, size);
    in_use -= size;
    insert(place, {.size = size, .touched = size});
    shrink(most - in_use + bound(most));
  }
};

MemoryPool::MemoryPool() : state_(std::make_shared<State>()) {}

std::shared_ptr<void> MemoryPool::take(std::size_t bytes) {
  const std::size_t size = rounded(std::max<std::size_t>(bytes, 1), kBorder) + kGap;
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
  state_->shrink(0);
  state_->most = state_->in_use;
}

}  // namespace moesaic::cpu
