#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "backend/backend.h"
#include "comm/communicator.h"

namespace moesaic::comm {

/// The data plane of one group: tensors of one backend, in the order of its stream. Every call is
/// collective over the group; in a group of one it does nothing (or copies).
class Collectives {
 public:
  virtual ~Collectives() = default;

  virtual const Communicator& group() const = 0;

  /// inout (fp32, any shape) becomes the sum over the group, the same bits on every rank.
  virtual void all_reduce_sum(const Tensor& inout) = 0;

  /// Rows of `send` (rows, D), ordered by destination (send_rows[r] of them go to rank r); returns
  /// those that arrive, ordered by source (recv_rows[r] from rank r). A group of one gets `send`.
  virtual Tensor all_to_all(Backend& backend, const Tensor& send,
                            std::span<const std::int64_t> send_rows,
                            std::span<const std::int64_t> recv_rows) = 0;

  /// Seconds that this rank has spent in these calls, to take out of its own work.
  virtual double seconds() const = 0;
};

/// Tensors on the host, over MPI. The group must outlive it.
std::unique_ptr<Collectives> make_mpi_collectives(const Communicator& group);
/// Throws kUsage in a build without NCCL.
std::unique_ptr<Collectives> make_nccl_collectives(const Communicator& group);

}  // namespace moesaic::comm
