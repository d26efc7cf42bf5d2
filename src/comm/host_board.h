#pragma once

#include <mpi.h>

#include <map>

#include "comm/communicator.h"
#include "comm/ledger.h"

namespace moesaic::comm {

/// Standings of the ranks of one host, in memory that they share: they are read without MPI, where
/// it lets one thread alone call it.
class HostBoard {
 public:
  /// Collective over the world.
  explicit HostBoard(const Communicator& world);
  HostBoard(const HostBoard&) = delete;
  HostBoard& operator=(const HostBoard&) = delete;
  /// Collective over the ranks of the host.
  void close();

  /// Makes this rank's standing visible to the ranks of the host. Not collective.
  void publish(const Standing& standing);
  /// How often each rank of the host has published.
  std::vector<std::uint32_t> counts() const;
  /// By world rank, of the ranks that have published again since `before`: the others are stopped.
  std::map<int, Standing> read(const std::vector<std::uint32_t>& before) const;
  /// World ranks of the host.
  const std::vector<std::int32_t>& ranks() const { return ranks_; }
  /// Whether this is the first rank of the host.
  bool is_first() const { return host_.is_root(); }

 private:
  struct Slot;

  Communicator host_;
  std::vector<std::int32_t> ranks_;  // in the world
  MPI_Win window_ = MPI_WIN_NULL;
  std::vector<Slot*> slots_;  // of the host's ranks
};

}  // namespace moesaic::comm
