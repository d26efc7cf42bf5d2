#include "cli/threads.h"

#include <fmt/format.h>
#include <sched.h>

#include <algorithm>
#include <cstdlib>
#include <span>
#include <vector>

#include "base/host.h"
#include "base/log.h"

namespace moesaic::cli {
namespace {

std::vector<int> own_cores() {
  cpu_set_t mask;
  CPU_ZERO(&mask);
  std::vector<int> cores;
  if (sched_getaffinity(0, sizeof mask, &mask) == 0) {
    for (int core = 0; core < CPU_SETSIZE; ++core) {
      if (CPU_ISSET(core, &mask)) {
        cores.push_back(core);
      }
    }
  }
  return cores;
}

// "0-3,8"
std::string ranges(const std::vector<int>& cores) {
  std::string text;
  for (std::size_t i = 0; i < cores.size();) {
    std::size_t last = i;
    while (last + 1 < cores.size() && cores[last + 1] == cores[last] + 1) {
      ++last;
    }
    text += fmt::format("{}{}", text.empty() ? "" : ",", cores[i]);
    text += last > i ? fmt::format("-{}", cores[last]) : "";
    i = last + 1;
  }
  return text;
}

int from_environment(const char* name) {
  const char* const value = std::getenv(name);
  return value != nullptr ? std::atoi(value) : 0;
}

}  // namespace

Threads choose_threads(const config::Run& run, const comm::Communicator& node) {
  const std::vector<int> cores = own_cores();
  const std::string mask = ranges(cores);
  // Masks of the host's ranks, as hashes of equal length.
  const auto own = static_cast<std::uint64_t>(std::hash<std::string>{}(mask));
  const auto masks = node.all_gather(std::span<const std::uint64_t>(&own, 1));
  const auto sharers = static_cast<int>(std::count(masks.begin(), masks.end(), own));
  const int available = static_cast<int>(cores.size());

  Threads threads;
  threads.count = static_cast<int>(run.threads);
  for (const char* name : {"OMP_NUM_THREADS", "SLURM_CPUS_PER_TASK"}) {
    threads.count = threads.count > 0 ? threads.count : from_environment(name);
  }
  if (threads.count <= 0) {
    threads.count = std::max(1, available / sharers);
  }
  const std::string host = host_name();
  threads.place = fmt::format("host {}: {} ranks, cores {}, {} threads each", host, node.size(),
                              mask, threads.count);
  if (threads.count * sharers > available && node.is_root()) {
    log::warn(fmt::format(
        "{} ranks with {} threads each share cores {} of {}: fewer ranks, run.threads={} or "
        "mpirun --bind-to/--map-by would help",
        sharers, threads.count, mask, host, std::max(1, available / sharers)));
  }
  return threads;
}

}  // namespace moesaic::cli
