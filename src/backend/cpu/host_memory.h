#pragma once

#include "backend/memory_pool.h"

namespace moesaic::cpu {

/// Pages of the system, which are there once they are written to.
MemorySource host_memory();

}  // namespace moesaic::cpu
