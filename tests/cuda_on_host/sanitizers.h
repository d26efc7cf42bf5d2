#pragma once

#include <cstddef>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

// What AddressSanitizer must know of fibers and of memory. (ThreadSanitizer: race.h.)
namespace moesaic::cuda_on_host {

#ifdef __SANITIZE_ADDRESS__
constexpr bool kWithAsan = true;
inline void forbid(const void* place, std::size_t bytes) {
  __asan_poison_memory_region(place, bytes);
}
inline void allow(const void* place, std::size_t bytes) {
  __asan_unpoison_memory_region(place, bytes);
}
inline void leave_stack(void** mine, const void* bottom, std::size_t bytes) {
  __sanitizer_start_switch_fiber(mine, bottom, bytes);
}
inline void enter_stack(void* mine, const void** left_bottom, std::size_t* left_bytes) {
  __sanitizer_finish_switch_fiber(mine, left_bottom, left_bytes);
}
#else
constexpr bool kWithAsan = false;
inline void forbid(const void* /*place*/, std::size_t /*bytes*/) {}
inline void allow(const void* /*place*/, std::size_t /*bytes*/) {}
inline void leave_stack(void** /*mine*/, const void* /*bottom*/, std::size_t /*bytes*/) {}
inline void enter_stack(void* /*mine*/, const void** /*bottom*/, std::size_t* /*bytes*/) {}
#endif

}  // namespace moesaic::cuda_on_host
