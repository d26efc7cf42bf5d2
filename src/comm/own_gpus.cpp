#include "comm/own_gpus.h"

#include <fmt/format.h>

#include <map>

#include "base/host.h"

namespace moesaic::comm {

int gpu_of_rank(int local_rank, int visible) {
  if (visible == 0) {
    throw Error(Exit::kUsage, fmt::format("run.device = cuda: a rank on {} sees no GPU; "
                                          "CUDA_VISIBLE_DEVICES or Slurm may hide them",
                                          host_name()));
  }
  return local_rank % visible;
}

std::pair<int, int> sharing_ranks(const std::vector<std::string>& uuids) {
  std::map<std::string, int> owner;
  for (std::size_t rank = 0; rank < uuids.size(); ++rank) {
    const auto [first, added] = owner.try_emplace(uuids[rank], static_cast<int>(rank));
    if (!added) {
      return {first->second, static_cast<int>(rank)};
    }
  }
  return {-1, -1};
}

void check_own_gpus(const std::string& uuid, const Communicator& world) {
  const std::vector<std::string> uuids = world.gather(uuid, 0);
  const std::vector<std::string> hosts = world.gather(host_name(), 0);
  world.together("the choice of GPUs", [&] {
    const auto [first, second] = world.is_root() ? sharing_ranks(uuids) : std::pair(-1, -1);
    if (first >= 0) {
      const auto at = static_cast<std::size_t>(first);
      throw Error(
          Exit::kUsage,
          fmt::format("ranks {} and {} have one GPU, {} on {}, and NCCL wants one for each: "
                      "start as many ranks on a host as it has GPUs, or set "
                      "run.collectives = staged",
                      first, second, uuids[at], hosts[at]));
    }
  });
}

}  // namespace moesaic::comm
