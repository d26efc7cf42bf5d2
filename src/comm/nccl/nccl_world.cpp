#include "comm/nccl/nccl_world.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <exception>

#include "comm/nccl/compute_stream.h"

namespace moesaic::comm {
namespace {

constexpr int kParities = 2;
// Thread blocks of a message, which compute beside what the model computes.
constexpr int kBlocksOfMessage = 4;

using IdBytes = std::array<std::uint8_t, NCCL_UNIQUE_ID_BYTES>;

IdBytes new_id() {
  ncclUniqueId id;
  checked(ncclGetUniqueId(&id), "ncclGetUniqueId");
  IdBytes bytes{};
  std::memcpy(bytes.data(), &id, bytes.size());
  return bytes;
}

ncclComm_t open(const std::uint8_t* id_bytes, int ranks, int rank, ncclConfig_t& config) {
  ncclUniqueId id;
  std::memcpy(&id, id_bytes, NCCL_UNIQUE_ID_BYTES);
  ncclComm_t comm = nullptr;
  checked(ncclCommInitRankConfig(&comm, ranks, id, rank, &config), "ncclCommInitRankConfig");
  return comm;
}

// Whether a member sends another one messages of a parity.
bool has_lane(Messages messages, int from, int to, int parity, int size) {
  const int next = parity == 0 ? (from + 1) % size : (from + size - 1) % size;
  return from != to && (messages == Messages::kAll || to == next);
}

// In one order on all members, which open their lanes in it: lane(from, to, parity).
template <class Use>
void each_lane(Messages messages, int size, const Use& use) {
  for (int from = 0; from < size; ++from) {
    for (int to = 0; to < size; ++to) {
      for (int parity = 0; parity < kParities; ++parity) {
        if (has_lane(messages, from, to, parity, size)) {
          use(from, to, parity);
        }
      }
    }
  }
}

}  // namespace

const Lane& Lanes::find(const std::vector<Entry>& lanes, int member, int tag) {
  const auto found = std::find_if(lanes.begin(), lanes.end(), [&](const Entry& entry) {
    return entry.member == member && entry.parity == tag % kParities;
  });
  require(found != lanes.end(), "a message between ranks that have no lane");
  return *found->lane;
}

NcclWorld::NcclWorld(Backend& backend, const Communicator& world)
    : backend_(backend), world_(world), compute_(compute_stream(backend)) {
  if (world.size() == 1) {
    return;
  }
  IdBytes id{};
  if (world.is_root()) {
    id = new_id();
  }
  world.broadcast(std::span<std::uint8_t>(id), 0);
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.splitShare = 1;
  Members all;
  for (int rank = 0; rank < world.size(); ++rank) {
    all.ranks.push_back(rank);
  }
  const Ledger::Entry entry = world.enter(Operation::kBarrier);
  all.comm = open(id.data(), world.size(), world.rank(), config);
  keep(all.comm);
  kinds_.push_back(std::move(all));
  if (world.ledger() != nullptr) {
    world.ledger()->watch(this, [this] { return trouble(); });
  }
}

// Nothing is destroyed on the way out of an error, as others may not come here.
NcclWorld::~NcclWorld() {
  if (world_.ledger() != nullptr) {
    world_.ledger()->watch(this, nullptr);
  }
  for (auto comm = comms_.rbegin(); std::uncaught_exceptions() == 0 && comm != comms_.rend();
       ++comm) {
    ncclCommDestroy(*comm);
  }
}

void NcclWorld::keep(ncclComm_t comm) {
  const std::lock_guard lock(mutex_);
  comms_.push_back(comm);
}

std::string NcclWorld::trouble() const {
  const std::lock_guard lock(mutex_);
  for (ncclComm_t const comm : comms_) {
    ncclResult_t state = ncclSuccess;
    const ncclResult_t asked = ncclCommGetAsyncError(comm, &state);
    const ncclResult_t worse = asked != ncclSuccess ? asked : state;
    if (worse != ncclSuccess && worse != ncclInProgress) {
      return fmt::format("NCCL: {}; {}", ncclGetErrorString(worse), ncclGetLastError(comm));
    }
  }
  return {};
}

// Groups of one have no communicator, so these are alike.
const NcclWorld::Members* NcclWorld::known(const std::vector<std::int32_t>& ranks) const {
  std::vector<std::int32_t> same;
  for (const Members& kind : kinds_) {
    const bool alone = ranks.size() == 1 && kind.ranks.size() == 1;
    same.push_back(alone || ranks == kind.ranks ? 1 : 0);
  }
  world_.all_reduce(std::span(same), Reduce::kMin);
  const auto found = std::find(same.begin(), same.end(), 1);
  return found == same.end() ? nullptr : &kinds_[static_cast<std::size_t>(found - same.begin())];
}

ncclComm_t NcclWorld::join(const Communicator& group) {
  if (world_.size() == 1) {
    return nullptr;
  }
  Members members;
  const std::int32_t own = world_.rank();
  members.ranks = group.all_gather(std::span(&own, 1));
  if (const Members* const kind = known(members.ranks)) {
    return kind->comm;
  }
  if (world_.all_reduce(static_cast<std::int32_t>(group.size()), Reduce::kMax) > 1) {
    const int color = group.size() > 1 ? members.ranks.front() : NCCL_SPLIT_NOCOLOR;
    const Ledger::Entry entry = world_.enter(Operation::kBarrier);
    checked(ncclCommSplit(kinds_.front().comm, color, group.rank(), &members.comm, nullptr),
            "ncclCommSplit");
    if (members.comm != nullptr) {
      keep(members.comm);
    }
  }
  kinds_.push_back(std::move(members));
  return kinds_.back().comm;
}

Lanes NcclWorld::open_lanes(const Communicator& group) {
  Lanes lanes;
  const Messages messages = row_of(group.kind()).messages;
  if (messages == Messages::kNone || group.size() == 1) {
    return lanes;
  }
  // The sender of each lane makes its id.
  std::vector<std::uint8_t> own;
  each_lane(messages, group.size(), [&](int from, int, int) {
    if (from == group.rank()) {
      const IdBytes id = new_id();
      own.insert(own.end(), id.begin(), id.end());
    }
  });
  const std::vector<std::uint8_t> ids = group.all_gather(std::span<const std::uint8_t>(own));
  const std::uint8_t* next = ids.data();
  const Ledger::Entry entry = group.enter(Operation::kBarrier);
  each_lane(messages, group.size(), [&](int from, int to, int parity) {
    const std::uint8_t* const id = next;
    next += NCCL_UNIQUE_ID_BYTES;
    if (from != group.rank() && to != group.rank()) {
      return;
    }
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.maxCTAs = kBlocksOfMessage;
    auto lane = std::make_unique<Lane>();
    lane->comm = open(id, 2, to == group.rank() ? 1 : 0, config);
    keep(lane->comm);
    const bool sends = from == group.rank();
    (sends ? lanes.sending_ : lanes.receiving_)
        .push_back({sends ? to : from, parity, std::move(lane)});
  });
  return lanes;
}

}  // namespace moesaic::comm
