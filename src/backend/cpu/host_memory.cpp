#include "backend/cpu/host_memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif

namespace moesaic::cpu {
namespace {

constexpr std::size_t kBorder = 64;
constexpr std::size_t kGrowth = std::size_t{1} << 22U;  // addresses taken at once, at least
#ifdef __SANITIZE_ADDRESS__
constexpr std::size_t kGap = kBorder;
void forbid(const void* place, std::size_t bytes) { __asan_poison_memory_region(place, bytes); }
void allow(const void* place, std::size_t bytes) { __asan_unpoison_memory_region(place, bytes); }
#else
constexpr std::size_t kGap = 0;
void forbid(const void* /*place*/, std::size_t /*bytes*/) {}
void allow(const void* /*place*/, std::size_t /*bytes*/) {}
#endif

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
  return place == MAP_FAILED ? nullptr : static_cast<std::byte*>(place);
}

}  // namespace

MemorySource host_memory() {
  return {
      .name = "memory",
      .border = kBorder,
      .gap = kGap,
      .unit = static_cast<std::size_t>(sysconf(_SC_PAGESIZE)),
      .growth = [](std::size_t /*in_use*/) { return kGrowth; },
      .place_with_room = place_with_room,
      .allocate = map_pages,
      .free = [](std::byte* place, std::size_t bytes) { munmap(place, bytes); },
      .release = [](std::byte* place, std::size_t bytes) { madvise(place, bytes, MADV_DONTNEED); },
      .forbid = forbid,
      .allow = allow};
}

}  // namespace moesaic::cpu
