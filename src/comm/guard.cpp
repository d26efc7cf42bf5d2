#include "comm/guard.h"

#include <fmt/format.h>
#include <mpi.h>

#include <chrono>
#include <cstdlib>
#include <string>
#include <thread>

#include "base/error.h"
#include "base/host.h"
#include "base/log.h"
#include "comm/communicator.h"

namespace moesaic::comm {
namespace {

[[noreturn]] void die(Exit code, const std::string& what, const Communicator& world) {
  if (world.size() == 1) {
    log::error(what);
    std::_Exit(static_cast<int>(code));
  }
  log::error(fmt::format("fatal: {}", what));
  abort_all(static_cast<int>(code));
}

}  // namespace

void abort_all(int code) {
  // MPI_Abort asks the launcher, and waits for ever where the network to it is gone.
  std::thread([code] {
    std::this_thread::sleep_for(std::chrono::seconds(20));
    std::_Exit(code);
  }).detach();
  MPI_Abort(MPI_COMM_WORLD, code);
  std::_Exit(code);
}

int guarded(int argc, char** argv, log::Level level, const std::function<int()>& job) {
  int provided = 0;
  if (MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &provided) != MPI_SUCCESS) {
    return static_cast<int>(Exit::kInternal);
  }
  const Communicator world = Communicator::world();
  log::set_up(world.rank(), host_name(), level);
  int code = 0;
  try {
    code = job();
  } catch (const AgreedError& error) {
    if (world.is_root()) {
      error.code() == Exit::kTerminated ? log::info(error.what()) : log::error(error.what());
    }
    code = static_cast<int>(error.code());
  } catch (const Error& error) {
    const bool ours = error.code() == Exit::kInternal;
    die(error.code(),
        ours ? fmt::format("{} ({}:{})", error.what(), error.where().file, error.where().line)
             : error.what(),
        world);
  } catch (const std::exception& error) {
    die(Exit::kInternal, error.what(), world);
  }
  MPI_Finalize();
  return code;
}

}  // namespace moesaic::comm
