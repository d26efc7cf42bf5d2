#include "plan/trained_memory.h"

#include <algorithm>
#include <map>
#include <tuple>
#include <vector>

#include "base/share.h"
#include "plan/rank_model.h"

namespace moesaic::plan {
namespace {

using Bytes = model::Parameters::TrainedBytes;
using model::SumOver;

void widen(const Bytes& bytes, Bytes& most) {
  most.elements = std::max(most.elements, bytes.elements);
  most.gradients = std::max(most.gradients, bytes.gradients);
  most.moments = std::max(most.moments, bytes.moments);
}

// What a rank has of one sum's parameters, by its number among those that share out their updates.
std::vector<Bytes> by_owner(RankModel& model, SumOver sum, std::int64_t owners, DType moments) {
  model.parameters.place({{sum, {0, static_cast<int>(owners)}}});
  Bytes unshared = model.parameters.trained_bytes(sum, moments);
  unshared.moments = 0;
  std::vector<Bytes> all(static_cast<std::size_t>(owners), unshared);
  const std::int64_t element = 2 * static_cast<std::int64_t>(size_of(moments));
  for (const model::Bucket& bucket : model.parameters.buckets()) {
    if (bucket.sum != sum) {
      continue;
    }
    for (const model::Parameter* const p : bucket.members) {
      std::int64_t begin = bucket.gradients.begin;
      for (std::size_t owner = 0; owner < all.size(); ++owner) {
        const std::int64_t share = bucket.counts[owner];
        const Slice owned = overlap({begin, share}, {p->begin, p->trained_elements()});
        all[owner].moments += element * model::padded(owned.count);
        begin += share;
      }
    }
  }
  return all;
}

// Every sum's parameters differ by fewer coordinates than ranks have: each case is made once.
class Shares {
 public:
  Shares(const config::Config& config, const Layout& layout, const routing::GateState& gates,
         const model::Tuning& tuning)
      : config_(config), layout_(layout), gates_(gates), tuning_(tuning) {}

  // What the rank at these coordinates has (comm/groups.h).
  Bytes at(std::int64_t stage, std::int64_t dp, std::int64_t cp, std::int64_t ep, std::int64_t tp) {
    const std::int64_t copy = dp * layout_.cp + cp;           // of its experts
    const std::int64_t replica = copy * layout_.ep + ep;      // of all else
    const std::int64_t of_stage = replica * layout_.tp + tp;  // of the stage's gates
    Bytes bytes = of(SumOver::kExpertReplicas, stage, tp, ep, copy);
    bytes += of(SumOver::kExpertStage, stage, tp, ep, copy * layout_.tp + tp);
    bytes += of(SumOver::kReplicas, stage, tp, 0, replica);
    bytes += of(SumOver::kStage, stage, tp, 0, of_stage);
    return bytes;
  }

 private:
  Bytes of(SumOver sum, std::int64_t stage, std::int64_t tp, std::int64_t ep, std::int64_t number) {
    const auto key = std::tuple(sum, stage, tp, ep);
    auto found = known_.find(key);
    if (found == known_.end()) {
      const std::int64_t expert_rank = layout_.folded ? ep * layout_.tp + tp : ep;
      RankModel model(config_, layout_, {stage, tp, expert_rank}, gates_, tuning_);
      found = known_.emplace(key, by_owner(model, sum, owners(sum), config_.train.moments)).first;
    }
    return found->second[layout_.zero ? static_cast<std::size_t>(number) : 0];
  }

  std::int64_t owners(SumOver sum) const {
    const std::int64_t copies =
        model::is_of_experts(sum) ? layout_.expert_copies() : layout_.copies();
    return layout_.zero ? copies * (model::is_over_tp(sum) ? layout_.tp : 1) : 1;
  }

  const config::Config& config_;
  const Layout& layout_;
  const routing::GateState& gates_;
  const model::Tuning& tuning_;
  std::map<std::tuple<SumOver, std::int64_t, std::int64_t, std::int64_t>, std::vector<Bytes>>
      known_;
};

}  // namespace

TrainedMemory trained_memory(const config::Config& config, const Layout& layout,
                             const routing::GateState& gates, const model::Tuning& tuning) {
  Shares shares(config, layout, gates, tuning);
  TrainedMemory memory;
  for (std::int64_t rank = 0; rank < layout.ranks(); ++rank) {
    std::int64_t rest = rank;
    const auto coordinate = [&](std::int64_t size) {
      const std::int64_t at = rest % size;
      rest /= size;
      return at;
    };
    const std::int64_t tp = coordinate(layout.tp);
    const std::int64_t ep = coordinate(layout.ep);
    const std::int64_t cp = coordinate(layout.cp);
    const std::int64_t dp = coordinate(layout.dp);
    const Bytes bytes = shares.at(rest, dp, cp, ep, tp);
    memory.sum += bytes;
    widen(bytes, memory.largest);
  }
  return memory;
}

}  // namespace moesaic::plan
