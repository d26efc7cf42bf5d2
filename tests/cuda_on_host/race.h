#pragma once

#include <cstddef>

#ifdef MOESAIC_WATCH_RACES
#include <sanitizer/tsan_interface.h>
extern "C" {
void __tsan_read_range(void* place, unsigned long bytes);   // NOLINT
void __tsan_write_range(void* place, unsigned long bytes);  // NOLINT
}
#endif

// ThreadSanitizer: each fiber is a thread to it, and barriers order them. Kernels are compiled with
// it, the emulation itself is not (but with MOESAIC_WATCH_RACES).
namespace moesaic::cuda_on_host::race {

#ifdef MOESAIC_WATCH_RACES
constexpr bool kWatched = true;
inline void* this_fiber() { return __tsan_get_current_fiber(); }
inline void* make_fiber() { return __tsan_create_fiber(0); }
inline void end_fiber(void* fiber) { __tsan_destroy_fiber(fiber); }
inline void switch_to(void* fiber) {
  __tsan_switch_to_fiber(fiber, __tsan_switch_to_fiber_no_sync);
}
inline void release(void* at) { __tsan_release(at); }
inline void acquire(void* at) { __tsan_acquire(at); }
inline void read(const void* place, std::size_t bytes) {
  __tsan_read_range(const_cast<void*>(place), bytes);
}
inline void write(void* place, std::size_t bytes) { __tsan_write_range(place, bytes); }
#else
constexpr bool kWatched = false;
inline void* this_fiber() { return nullptr; }
inline void* make_fiber() { return nullptr; }
inline void end_fiber(void* /*fiber*/) {}
inline void switch_to(void* /*fiber*/) {}
inline void release(void* /*at*/) {}
inline void acquire(void* /*at*/) {}
inline void read(const void* /*place*/, std::size_t /*bytes*/) {}
inline void write(void* /*place*/, std::size_t /*bytes*/) {}
#endif

}  // namespace moesaic::cuda_on_host::race
