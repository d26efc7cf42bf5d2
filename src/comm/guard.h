#pragma once

#include <functional>

#include "base/log.h"

namespace moesaic::comm {

/// What MPI is asked to let threads do: all call it at once, or one at a time.
enum class Threads { kMultiple, kSerialized };

/// Runs job between MPI_Init and MPI_Finalize and returns its exit code, equal on all ranks.
/// An AgreedError (all ranks threw it, see Communicator::together) ends cleanly with its code, said
/// once by rank 0. Any other throw prints `[rank r host] fatal: ...` and aborts every rank.
int guarded(int argc, char** argv, log::Level level, const std::function<int()>& job,
            Threads threads = Threads::kMultiple);

/// Ends all ranks at once with this exit code, from any thread. Never returns.
[[noreturn]] void abort_all(int code);

}  // namespace moesaic::comm
