#include "cli/threads.h"

#include <fmt/format.h>
#include <omp.h>
#include <sched.h>

#include <algorithm>
#include <cstdlib>
#include <span>
#include <vector>

#include "base/host.h"
#include "base/log.h"
#include "base/text.h"

namespace moesaic::cli {
namespace {

// With OMP_PROC_BIND the OpenMP library bound this thread to its first place long ago, so that the
// affinity mask says nothing about the process.
std::vector<int> cores_of_places() {
  std::vector<int> cores;
  for (int place = 0; place < omp_get_num_places(); ++place) {
    std::vector<int> own(static_cast<std::size_t>(omp_get_place_num_procs(place)));
    omp_get_place_proc_ids(place, own.data());
    cores.insert(cores.end(), own.begin(), own.end());
  }
  std::sort(cores.begin(), cores.end());
  return cores;
}

std::vector<int> own_cores() {
  if (omp_get_proc_bind() != omp_proc_bind_false) {
    return cores_of_places();
  }
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
  threads.place = fmt::format("host {}: {}, cores {}, {} each{}", host,
                              counted(node.size(), "rank"), mask, counted(threads.count, "thread"),
                              omp_get_proc_bind() != omp_proc_bind_false ? ", pinned" : "");
  if (threads.count * sharers > available && node.is_root()) {
    log::warn(fmt::format(
        "{} ranks with {} threads each share cores {} of {}: fewer ranks, run.threads={} or "
        "mpirun --bind-to/--map-by would help",
        sharers, threads.count, mask, host, std::max(1, available / sharers)));
  }
  return threads;
}

}  // namespace moesaic::cli
