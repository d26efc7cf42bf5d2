#include "comm/guard.h"

#include <fmt/format.h>
#include <mpi.h>

#include <array>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <string_view>
#include <thread>

#include "base/error.h"
#include "base/host.h"
#include "base/io_error.h"
#include "base/log.h"
#include "base/unclean_end.h"
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

// Without it the job would end with a code of MPI's, and without the rank's name.
[[noreturn]] void on_mpi_error(MPI_Comm*, int* error, ...) {
  std::array<char, MPI_MAX_ERROR_STRING> text{};
  int length = 0;
  MPI_Error_string(*error, text.data(), &length);
  log::error(fmt::format("fatal: MPI: {}",
                         std::string_view(text.data(), static_cast<std::size_t>(length))));
  abort_all(static_cast<int>(Exit::kInternal));
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

int guarded(int argc, char** argv, log::Level level, const std::function<int()>& job,
            Threads threads) {
  int provided = 0;
  const int wanted = threads == Threads::kMultiple ? MPI_THREAD_MULTIPLE : MPI_THREAD_SERIALIZED;
  if (MPI_Init_thread(&argc, &argv, wanted, &provided) != MPI_SUCCESS) {
    return static_cast<int>(Exit::kInternal);
  }
  MPI_Errhandler handler = MPI_ERRHANDLER_NULL;  // those of other groups are made from this one
  MPI_Comm_create_errhandler(on_mpi_error, &handler);
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, handler);
  MPI_Errhandler_free(&handler);
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
  } catch (const std::filesystem::filesystem_error& error) {
    die(to_error(error).code(), to_error(error).what(), world);
  } catch (const std::exception& error) {
    die(Exit::kInternal, error.what(), world);
  }
  if (world.all_reduce(ends_without_clean_up() ? 1 : 0, Reduce::kMax) != 0) {
    if (world.size() == 1) {
      std::_Exit(code);
    }
    abort_all(code);
  }
  MPI_Finalize();
  return code;
}

}  // namespace moesaic::comm
