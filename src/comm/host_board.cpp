#include "comm/host_board.h"

#include <atomic>
#include <cstring>
#include <new>

namespace moesaic::comm {

// The writer makes the version odd while it writes; a reader that sees another version than at its
// start reads again.
struct HostBoard::Slot {
  std::atomic<std::uint32_t> version{0};
  Standing standing;
};

HostBoard::HostBoard(const Communicator& world) : host_(world.split_by_host()) {
  const std::int32_t own = world.rank();
  ranks_ = host_.all_gather(std::span<const std::int32_t>(&own, 1));
  void* memory = nullptr;
  MPI_Win_allocate_shared(sizeof(Slot), 1, MPI_INFO_NULL, host_.handle(), &memory, &window_);
  new (memory) Slot();
  host_.barrier();
  for (int rank = 0; rank < host_.size(); ++rank) {
    MPI_Aint bytes = 0;
    int unit = 0;
    void* slot = nullptr;
    MPI_Win_shared_query(window_, rank, &bytes, &unit, &slot);
    slots_.push_back(static_cast<Slot*>(slot));
  }
}

void HostBoard::close() {
  slots_.clear();
  MPI_Win_free(&window_);
  host_.close();
}

void HostBoard::publish(const Standing& standing) {
  Slot& own = *slots_[static_cast<std::size_t>(host_.rank())];
  own.version.fetch_add(1, std::memory_order_acq_rel);
  std::memcpy(&own.standing, &standing, sizeof standing);
  own.version.fetch_add(1, std::memory_order_release);
}

std::vector<std::uint32_t> HostBoard::counts() const {
  std::vector<std::uint32_t> counts;
  for (const Slot* slot : slots_) {
    counts.push_back(slot->version.load(std::memory_order_acquire));
  }
  return counts;
}

std::map<int, Standing> HostBoard::read(const std::vector<std::uint32_t>& before) const {
  constexpr int kTries = 1000;  // a writer may have been stopped amid its writing
  std::map<int, Standing> standings;
  for (std::size_t i = 0; i < slots_.size(); ++i) {
    for (int tries = 0; tries < kTries && !standings.contains(ranks_[i]); ++tries) {
      const std::uint32_t version = slots_[i]->version.load(std::memory_order_acquire);
      Standing standing;
      std::memcpy(&standing, &slots_[i]->standing, sizeof standing);
      std::atomic_thread_fence(std::memory_order_acquire);
      if (version != before[i] && version % 2 == 0 && version == slots_[i]->version.load()) {
        standings[ranks_[i]] = standing;
      }
    }
  }
  return standings;
}

}  // namespace moesaic::comm
