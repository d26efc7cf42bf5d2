#pragma once

#include <string>

#include "comm/communicator.h"
#include "config/config.h"

namespace moesaic::cli {

/// OpenMP threads of this rank and where they run.
struct Threads {
  int count = 1;
  std::string
      placement;  // "host n17: 2 ranks, cores 0-3 | 4-7, 4 threads each"; on the host's first rank
};

/// run.threads, else OMP_NUM_THREADS, else SLURM_CPUS_PER_TASK, else the cores of this rank's
/// affinity mask shared fairly between the ranks of the host with the same mask. Warns where ranks
/// share cores, or are bound to a few of those that the launcher has. Collective over node.
Threads choose_threads(const config::Run& run, const comm::Communicator& node);

}  // namespace moesaic::cli
