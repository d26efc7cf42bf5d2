#pragma once

#include <string>
#include <utility>
#include <vector>

#include "comm/communicator.h"

namespace moesaic::comm {

/// Which of the GPUs that a rank sees it takes, as the local_rank-th of its host. Throws kUsage if
/// it sees none.
int gpu_of_rank(int local_rank, int visible);

/// The first two ranks that have one GPU, or {-1, -1}.
std::pair<int, int> sharing_ranks(const std::vector<std::string>& uuids);

/// Collective over the world: throws kUsage on all ranks, naming both, if two have one GPU.
void check_own_gpus(const std::string& uuid, const Communicator& world);

}  // namespace moesaic::comm
