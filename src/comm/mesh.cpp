#include "comm/mesh.h"

#include <fmt/format.h>

#include "base/error.h"

namespace moesaic::comm {

std::string Layout::text() const { return fmt::format("tp={} pp={} ep={} dp={}", tp, pp, ep, dp); }

Mesh Mesh::make(int tp, int pp, int ep) {
  Mesh mesh;
  mesh.world = Communicator::world();
  const int size = mesh.world.size();
  const int rank = mesh.world.rank();
  if (tp > 1 || pp > 1) {
    throw Error(
        Exit::kUsage,
        fmt::format("parallel.tp = {} and parallel.pp = {}: tensor and pipeline parallelism "
                    "are not built yet; use 1 and spread experts with parallel.ep",
                    tp, pp));
  }
  if (size % (tp * pp * ep) != 0) {
    throw Error(Exit::kUsage, fmt::format("{} ranks cannot be arranged as tp={} pp={} ep={} x dp: "
                                          "start a multiple of {} ranks",
                                          size, tp, pp, ep, tp * pp * ep));
  }
  mesh.layout = {.tp = tp, .pp = pp, .ep = ep, .dp = size / (tp * pp * ep)};
  const int tp_i = rank % tp;
  const int ep_i = rank / tp % ep;
  const int dp_i = rank / (tp * ep) % mesh.layout.dp;
  const int pp_i = rank / (tp * ep * mesh.layout.dp);
  mesh.tp = mesh.world.split(rank / tp, tp_i);
  mesh.ep = mesh.world.split((pp_i * mesh.layout.dp + dp_i) * tp + tp_i, ep_i);
  mesh.dp = mesh.world.split((pp_i * ep + ep_i) * tp + tp_i, dp_i);
  mesh.pp = mesh.world.split((dp_i * ep + ep_i) * tp + tp_i, pp_i);
  mesh.replicas = mesh.world.split(pp_i * tp + tp_i, dp_i * ep + ep_i);
  mesh.node = mesh.world.split_by_host();
  return mesh;
}

Mesh Mesh::single() { return {}; }

void Mesh::close() {
  for (Communicator* group : {&node, &replicas, &pp, &dp, &ep, &tp, &world}) {
    group->close();
  }
}

}  // namespace moesaic::comm
