#include "cli/threads.h"

#include <fmt/format.h>
#include <omp.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cctype>
#include <cerrno>
#include <cstdlib>
#include <fstream>
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
  // The kernel refuses (EINVAL) a mask with less bits than the host has CPUs.
  constexpr std::size_t kBits = 64, kMost = std::size_t{1} << 14U;
  std::vector<std::uint64_t> mask(CPU_SETSIZE / kBits);
  const auto get = [&] {
    return sched_getaffinity(0, mask.size() * sizeof mask[0],
                             reinterpret_cast<cpu_set_t*>(mask.data()));
  };
  int status = get();
  while (status != 0 && errno == EINVAL && mask.size() < kMost) {
    mask.resize(2 * mask.size());
    status = get();
  }
  std::vector<int> cores;
  for (std::size_t core = 0; status == 0 && core < kBits * mask.size(); ++core) {
    if ((mask[core / kBits] >> core % kBits & 1U) != 0) {
      cores.push_back(static_cast<int>(core));
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

// "0-3 | 4-7": of the host's ranks, each mask once; of many, the first and the last.
std::string mask_text(std::vector<std::string> masks) {
  constexpr std::size_t kShown = 4;
  std::vector<std::string> distinct;
  for (std::string& mask : masks) {
    if (std::find(distinct.begin(), distinct.end(), mask) == distinct.end()) {
      distinct.push_back(std::move(mask));
    }
  }
  if (distinct.size() > kShown) {
    return fmt::format("{} | ... | {}", distinct.front(), distinct.back());
  }
  return join(distinct, " | ");
}

// The rest of the line "NAME: ..." of a file of /proc.
std::string line_of(const std::string& file, const std::string& name) {
  std::ifstream in(file);
  for (std::string line; std::getline(in, line);) {
    if (line.starts_with(name)) {
      return line.substr(name.size());
    }
  }
  return {};
}

// Cores that mpirun, or its like on this host, may use; 0 if something else has started this rank.
int cores_of_launcher() {
  const std::string process = fmt::format("/proc/{}/", getppid());
  const std::string name = line_of(process + "status", "Name:\t");
  const std::vector<std::string> launchers = {"mpirun",  "mpiexec", "orterun",
                                              "prterun", "orted",   "prted"};
  if (std::find(launchers.begin(), launchers.end(), name) == launchers.end()) {
    return 0;
  }
  int cores = 0;
  for (const char digit : line_of(process + "status", "Cpus_allowed:\t")) {
    if (std::isxdigit(static_cast<unsigned char>(digit)) != 0) {
      cores += std::popcount(static_cast<unsigned>(std::stoi(std::string(1, digit), nullptr, 16)));
    }
  }
  return cores;
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
  threads.placement =
      fmt::format("host {}: {}, cores {}, {} each{}", host, counted(node.size(), "rank"),
                  mask_text(node.gather(mask, 0)), counted(threads.count, "thread"),
                  omp_get_proc_bind() != omp_proc_bind_false ? ", pinned" : "");
  if (threads.count * sharers > available && node.is_root()) {
    const int fitting = std::max(1, available / sharers);
    log::warn(
        fmt::format("{} with {} each on cores {} of {}: {}{}mpirun --bind-to/--map-by would help",
                    counted(sharers, "rank"), counted(threads.count, "thread"), mask, host,
                    sharers > 1 ? "fewer ranks, " : "",
                    fitting < threads.count ? fmt::format("run.threads={} or ", fitting) : ""));
  }
  const int launcher = cores_of_launcher();
  if (node.is_root() && available > 0 && launcher >= 2 * available * node.size()) {
    log::warn(fmt::format(
        "{} on {} may use {} each, of {} that the launcher has: mpirun --bind-to none, or --map-by "
        "slot:PE={}, would use them all",
        counted(node.size(), "rank"), host, counted(available, "core"), launcher,
        launcher / node.size()));
  }
  return threads;
}

}  // namespace moesaic::cli
