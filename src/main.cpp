#include <fmt/format.h>

#include <cstdlib>
#include <filesystem>
#include <string_view>

#include "backend/gpus.h"
#include "base/io_error.h"
#include "base/log.h"
#include "base/version.h"
#include "cli/job.h"
#include "cli/jobs.h"
#include "comm/communicator.h"
#include "comm/guard.h"
#include "comm/launch.h"
#include "comm/stop.h"
#include "config/help.h"
#include "config/options.h"

namespace {

using moesaic::Error;
using moesaic::config::Parsed;

moesaic::log::Level level_of(moesaic::config::LogLevel level) {
  return static_cast<moesaic::log::Level>(level);
}

// Every rank reads the same command line; under a launcher the first one says what is wrong with
// it.
bool reports() {
  for (const char* const name : {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "SLURM_PROCID"}) {
    if (const char* const rank = std::getenv(name); rank != nullptr) {
      return std::string_view(rank) == "0";
    }
  }
  return true;
}

// Jobs for the login node never start MPI.
bool uses_mpi(std::string_view job) { return job != "plan" && job != "verify"; }

int run_without_mpi(const Parsed& parsed) {
  if (parsed.job == "plan") {
    return moesaic::cli::plan(parsed);
  }
  return moesaic::cli::verify(parsed.arguments);
}

int run_with_mpi(const Parsed& parsed) {
  moesaic::comm::Ledger ledger;
  const auto world = moesaic::comm::Communicator::world(&ledger);
  moesaic::comm::agree_to_go_on("starting", world);
  moesaic::comm::check_same(moesaic::cli::facts_of(parsed), world);
  if (parsed.job == "tokenize") {
    moesaic::config::Config config;
    world.together("check the config",
                   [&] { config = moesaic::config::checked(parsed, world.size()); });
    return moesaic::cli::tokenize(config, world);
  }
  moesaic::comm::check_launch(world);
  const moesaic::config::Run& run = parsed.config.run;
  if (run.device == moesaic::config::Device::kCuda) {  // before anything is read or written
    world.together("look for GPUs", [] { moesaic::visible_gpus(); });
  }
  moesaic::comm::Watchdog watchdog({run.step_timeout, run.load_timeout, run.save_timeout}, world);
  const auto& job = parsed.job == "score"      ? moesaic::cli::score
                    : parsed.job == "generate" ? moesaic::cli::generate
                    : parsed.job == "experts"  ? moesaic::cli::experts
                    : parsed.job == "convert"  ? moesaic::cli::convert
                                               : moesaic::cli::train;
  const int code = job(parsed, world, watchdog);
  watchdog.close();
  return code;
}

}  // namespace

int main(int argc, char** argv) {
  moesaic::log::guard_streams();
  Parsed parsed;
  try {
    parsed = moesaic::config::parse(argc, argv);
    if (parsed.version) {
      moesaic::log::print(fmt::format("moesaic {} ({})", moesaic::version(), moesaic::git_hash()));
      return 0;
    }
    if (parsed.help) {
      moesaic::log::print(moesaic::config::help_text(parsed.job));
      return 0;
    }
    if (!uses_mpi(parsed.job)) {
      return run_without_mpi(parsed);
    }
  } catch (const Error& error) {
    const bool shared =
        uses_mpi(argc > 1 ? argv[1] : "") && error.code() != moesaic::Exit::kIoError;
    if (reports() || !shared) {
      moesaic::log::error(error.what());
    }
    return static_cast<int>(error.code());
  } catch (const std::filesystem::filesystem_error& error) {
    moesaic::log::error(moesaic::to_error(error).what());
    return static_cast<int>(moesaic::to_error(error).code());
  }
  using Tri = moesaic::config::Tri;
  if (parsed.config.run.progress != Tri::kAuto) {
    moesaic::log::set_terminal(parsed.config.run.progress == Tri::kOn);
  }
  const moesaic::comm::StopSignal signal;
  using moesaic::comm::Threads;
  const bool serialized = parsed.config.run.mpi_threads == moesaic::config::MpiThreads::kSerialized;
  const auto job = [&] {
    signal.renew();
    return run_with_mpi(parsed);
  };
  return moesaic::comm::guarded(argc, argv, level_of(parsed.config.run.log_level), job,
                                serialized ? Threads::kSerialized : Threads::kMultiple);
}
