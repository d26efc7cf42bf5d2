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

// The first world rank of the group of this kind that a rank is in.
int first_of(const GroupRow& row, const Layout& layout, int kv_copies, int rank) {
  int first = rank, stride = 1;
  const auto to_begin = [&](Axis axis, int size) {
    const int at = rank / stride % size;
    if ((row.axes & axis) != 0) {
      const bool alone = row.which == Together::kEnds && at != 0 && at != size - 1;
      const int steps = row.which == Together::kKvCopies ? at % kv_copies : alone ? 0 : at;
      first -= steps * stride;
    }
    stride *= size;
  };
  to_begin(kTpAxis, layout.tp);
  to_begin(kEpAxis, layout.ep);
  to_begin(kCpAxis, layout.cp);
  to_begin(kDpAxis, layout.dp);
  to_begin(kPpAxis, layout.pp);
  return first;
}

}  // namespace

std::string Layout::text() const {
  return fmt::format("tp={} pp={} ep={}{} dp={}", tp, pp, ep,
                     cp > 1 ? fmt::format(" cp={}", cp) : "", dp);
}

std::vector<std::vector<std::string>> Layout::rows() const {
  constexpr int kLines = 16, kShown = 8;  // of a large mesh the first ones
  std::vector<std::vector<std::string>> rows = {{"mesh", text()}};
  for (int line = 0; line < pp * dp * cp; ++line) {
    if (line == kLines) {
      rows.push_back({"", fmt::format("and {} lines more", pp * dp * cp - line)});
      break;
    }
    std::string groups;
    for (int e = 0; e < std::min(ep, kShown); ++e) {
      const int first = (line * ep + e) * tp;
      groups += tp == 1   ? fmt::format(" [{}]", first)
                : tp <= 4 ? fmt::format(" [{}]", join(ranks_from(first, tp), " "))
                          : fmt::format(" [{}-{}]", first, first + tp - 1);
    }
    groups += ep > kShown ? fmt::format(" and {} groups more", ep - kShown) : "";
    const int replica = line / cp;
    rows.push_back({fmt::format("  stage {} dp {}{}", replica / dp, replica % dp,
                                cp > 1 ? fmt::format(" cp {}", line % cp) : ""),
                    "ranks" + groups});
  }
  return rows;
}

Mesh Mesh::make(const Degrees& degrees, Ledger* ledger) {
  const auto [tp, pp, ep, cp, kv_copies] = degrees;
  Mesh mesh;
  mesh.world = Communicator::world(ledger);
  const int size = mesh.world.size();
  const int rank = mesh.world.rank();
  if (size % (tp * pp * ep * cp) != 0) {
    throw Error(
        Exit::kUsage,
        fmt::format("{} ranks cannot be arranged as tp={} pp={} ep={}{} x dp: "
                    "start a multiple of {} ranks",
                    size, tp, pp, ep, cp > 1 ? fmt::format(" cp={}", cp) : "", tp * pp * ep * cp));
  }
  const int dp = size / (tp * pp * ep * cp);
  mesh.layout = {.tp = tp, .pp = pp, .ep = ep, .cp = cp, .dp = dp};
  for (std::size_t i = index_of(Group::kWorld) + 1; i < kGroupCount; ++i) {
    const int first = first_of(kGroups[i], mesh.layout, kv_copies, rank);
    mesh.groups_[i] = mesh.world.split(first, rank);
    mesh.groups_[i].record_in(ledger, static_cast<Group>(i));
  }
  mesh.node = mesh.world.split_by_host();
  return mesh;
}

Mesh Mesh::single() { return {}; }

void Mesh::close() {
  node.close();
  for (Communicator& group : groups_) {
    group.close();
  }
  world.close();
}

}  // namespace moesaic::comm
