#include "comm/mesh.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "base/error.h"
#include "base/text.h"

namespace moesaic::comm {

namespace {

std::vector<int> ranks_from(int first, int count) {
  std::vector<int> ranks(static_cast<std::size_t>(count));
  std::iota(ranks.begin(), ranks.end(), first);
  return ranks;
}

}  // namespace

std::string Layout::text() const { return fmt::format("tp={} pp={} ep={} dp={}", tp, pp, ep, dp); }

std::vector<std::vector<std::string>> Layout::rows() const {
  constexpr int kLines = 16, kGroups = 8;  // of a large mesh the first ones
  std::vector<std::vector<std::string>> rows = {{"mesh", text()}};
  for (int line = 0; line < pp * dp; ++line) {
    if (line == kLines) {
      rows.push_back({"", fmt::format("and {} lines more", pp * dp - line)});
      break;
    }
    std::string groups;
    for (int e = 0; e < std::min(ep, kGroups); ++e) {
      const int first = (line * ep + e) * tp;
      groups += tp == 1   ? fmt::format(" [{}]", first)
                : tp <= 4 ? fmt::format(" [{}]", join(ranks_from(first, tp), " "))
                          : fmt::format(" [{}-{}]", first, first + tp - 1);
    }
    groups += ep > kGroups ? fmt::format(" and {} groups more", ep - kGroups) : "";
    rows.push_back({fmt::format("  stage {} dp {}", line / dp, line % dp), "ranks" + groups});
  }
  return rows;
}

void Mesh::record_in(Ledger* ledger) {
  tp.record_in(ledger, Group::kTp);
  pp.record_in(ledger, Group::kPp);
  ep.record_in(ledger, Group::kEp);
  dp.record_in(ledger, Group::kDp);
  ep_tp.record_in(ledger, Group::kEpTp);
  replicas.record_in(ledger, Group::kReplicas);
  stage.record_in(ledger, Group::kStage);
  kv_replicas.record_in(ledger, Group::kKv);
  ends.record_in(ledger, Group::kEnds);
}

Mesh Mesh::make(const Degrees& degrees, Ledger* ledger) {
  const auto [tp, pp, ep, kv_copies] = degrees;
  Mesh mesh;
  mesh.world = Communicator::world(ledger);
  const int size = mesh.world.size();
  const int rank = mesh.world.rank();
  if (size % (tp * pp * ep) != 0) {
    throw Error(Exit::kUsage, fmt::format("{} ranks cannot be arranged as tp={} pp={} ep={} x dp: "
                                          "start a multiple of {} ranks",
                                          size, tp, pp, ep, tp * pp * ep));
  }
  const int dp = size / (tp * pp * ep);
  mesh.layout = {.tp = tp, .pp = pp, .ep = ep, .dp = dp};
  const int tp_i = rank % tp;
  const int ep_i = rank / tp % ep;
  const int dp_i = rank / (tp * ep) % dp;
  const int pp_i = rank / (tp * ep * dp);
  const int in_stage = rank % (tp * ep * dp);
  const bool at_end = pp_i == 0 || pp_i == pp - 1;
  mesh.tp = mesh.world.split(rank / tp, tp_i);
  mesh.ep = mesh.world.split((pp_i * dp + dp_i) * tp + tp_i, ep_i);
  mesh.dp = mesh.world.split((pp_i * ep + ep_i) * tp + tp_i, dp_i);
  mesh.pp = mesh.world.split(in_stage, pp_i);
  mesh.ep_tp = mesh.world.split(pp_i * dp + dp_i, rank);
  mesh.replicas = mesh.world.split(pp_i * tp + tp_i, dp_i * ep + ep_i);
  mesh.stage = mesh.world.split(pp_i, rank);
  mesh.kv_replicas = mesh.world.split(rank / kv_copies, rank);
  mesh.ends = mesh.world.split(at_end ? in_stage : size + rank, pp_i);
  mesh.node = mesh.world.split_by_host();
  mesh.record_in(ledger);
  return mesh;
}

Mesh Mesh::single() { return {}; }

void Mesh::close() {
  for (Communicator* group :
       {&node, &ends, &kv_replicas, &stage, &replicas, &ep_tp, &pp, &dp, &ep, &tp, &world}) {
    group->close();
  }
}

}  // namespace moesaic::comm
