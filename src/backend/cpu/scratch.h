#pragma once

#include <cstdint>

namespace moesaic::cpu {

/// A buffer of this thread, on a border of 64 bytes, until the thread asks again. It grows and
/// stays.
void* thread_scratch(std::int64_t bytes);

}  // namespace moesaic::cpu
