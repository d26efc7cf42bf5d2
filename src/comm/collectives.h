#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "comm/communicator.h"
#include "tensor/tensor.h"

namespace moesaic::comm {

/// The data plane of one group: tensors of one backend, in the order of its stream. Every call is
/// collective over the group; in a group of one it does nothing (or copies).
class Collectives {
 public:
  virtual ~Collectives() = default;

  virtual const Communicator& group() const = 0;

  /// inout (fp32, any shape) becomes the sum over the group, the same bits on every rank.
  virtual void all_reduce_sum(const Tensor& inout) = 0;

  /// Rows of `send`, ordered by destination (send_rows[r] of them go to rank r), arrive in `recv`
  /// ordered by source (recv_rows[r] from rank r). Both: (rows, D) of one dtype.
  virtual void all_to_all(const Tensor& send, std::span<const std::int64_t> send_rows,
                          const Tensor& recv, std::span<const std::int64_t> recv_rows) = 0;
};

std::unique_ptr<Collectives> make_mpi_collectives(const Communicator& group);

}  // namespace moesaic::comm
