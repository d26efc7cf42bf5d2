#pragma once

#include <fmt/format.h>
#include <nccl.h>

#include "base/error.h"

namespace moesaic::comm {

/// Throws kInternal with what the library says unless the call went well.
inline void checked(ncclResult_t result, const char* call) {
  if (result != ncclSuccess) {
    throw Error(Exit::kInternal, fmt::format("{}: {}; {}", call, ncclGetErrorString(result),
                                             ncclGetLastError(nullptr)));
  }
}

}  // namespace moesaic::comm
