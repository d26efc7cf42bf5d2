#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "backend/cuda/stream.h"
#include "comm/communicator.h"
#include "comm/nccl/calls.h"
#include "comm/nccl/mark.h"

namespace moesaic::comm {

/// One-way messages from one rank to another: a communicator of the two and a stream.
struct Lane {
  ncclComm_t comm = nullptr;
  cuda::Stream stream;
};

/// The lanes between the members of a group that send each other messages.
class Lanes {
 public:
  /// From this rank, or to it: the messages of even tags, or of odd ones.
  const Lane& to(int member, int tag) const { return find(sending_, member, tag); }
  const Lane& from(int member, int tag) const { return find(receiving_, member, tag); }

 private:
  friend class NcclWorld;
  struct Entry {
    int member, parity;
    std::unique_ptr<Lane> lane;
  };
  static const Lane& find(const std::vector<Entry>& lanes, int member, int tag);
  std::vector<Entry> sending_, receiving_;
};

/// What the collectives of all groups share: the stream that they go in, one after the other, and
/// the communicators, which are parts of the world's and use its memory and connections. So no two
/// of them may be under way at once. Lanes have connections of their own.
class NcclWorld {
 public:
  /// Collective over the world, which must outlive it.
  NcclWorld(Backend& backend, const Communicator& world);
  ~NcclWorld();
  NcclWorld(const NcclWorld&) = delete;
  NcclWorld& operator=(const NcclWorld&) = delete;

  /// Collective over the world, each rank with its group of the same kind: its communicator, that
  /// of an earlier kind if the members are the same everywhere; nullptr for a group of one.
  ncclComm_t join(const Communicator& group);
  /// Collective over the group.
  Lanes open_lanes(const Communicator& group);

  Backend& backend() const { return backend_; }
  cudaStream_t stream() const { return stream_.get(); }
  cudaStream_t compute() const { return compute_; }
  /// What went wrong behind the calls; empty: nothing. From any thread.
  std::string trouble() const;

 private:
  struct Members {
    std::vector<std::int32_t> ranks;  // in the world, by rank in the group
    ncclComm_t comm = nullptr;
  };
  const Members* known(const std::vector<std::int32_t>& ranks) const;
  void keep(ncclComm_t comm);

  Backend& backend_;
  const Communicator& world_;
  const cudaStream_t compute_;
  cuda::Stream stream_;
  std::vector<Members> kinds_;
  mutable std::mutex mutex_;
  std::vector<ncclComm_t> comms_;  // to be destroyed, the last one first
};

}  // namespace moesaic::comm
