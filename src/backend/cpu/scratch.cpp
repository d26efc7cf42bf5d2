#include "backend/cpu/scratch.h"

#include <fmt/format.h>

#include <cstdlib>
#include <memory>

#include "base/error.h"

namespace moesaic::cpu {

void* thread_scratch(std::int64_t bytes) {
  struct Free {
    void operator()(void* p) const { std::free(p); }
  };
  thread_local std::unique_ptr<void, Free> buffer;
  thread_local std::int64_t held = 0;
  if (bytes > held) {
    buffer.reset(std::aligned_alloc(64, static_cast<std::size_t>(bytes)));
    require(buffer != nullptr, fmt::format("out of memory: {} bytes for a product", bytes));
    held = bytes;
  }
  return buffer.get();
}

}  // namespace moesaic::cpu
