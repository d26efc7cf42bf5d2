#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "comm/communicator.h"

namespace moesaic::comm {

/// Rows on their way between the ranks of a group.
struct Exchange {
  Tensor recv;                    // not to be read before finish
  std::shared_ptr<void> pending;  // what the collectives need until then
};

/// A tensor on its way from another rank.
struct Message {
  Tensor tensor;
  std::shared_ptr<void> pending;
};

/// The data plane of one group: tensors of one backend. What was computed before a call is sent,
/// and what comes after the call sees its results: the host need not have waited. Every call is
/// collective over the group; in a group of one it does nothing (or copies).
class Collectives {
 public:
  virtual ~Collectives() = default;

  virtual const Communicator& group() const = 0;

  /// inout (fp32, any shape) becomes the sum over the group, the same bits on every rank.
  virtual void all_reduce_sum(const Tensor& inout) = 0;

  /// inout (int32, any shape) becomes the largest over the group.
  virtual void all_reduce_max(const Tensor& inout) = 0;

  /// Rows of `send` (rows, D), ordered by destination (send_rows[r] of them go to rank r); returns
  /// those that arrive, ordered by source (recv_rows[r] from rank r). A group of one gets `send`.
  /// The two halves of it, between which this rank may compute; one at a time.
  virtual Exchange start_all_to_all(const Tensor& send, std::span<const std::int64_t> send_rows,
                                    std::span<const std::int64_t> recv_rows) = 0;
  virtual Tensor finish(Exchange exchange) = 0;
  Tensor all_to_all(const Tensor& send, std::span<const std::int64_t> send_rows,
                    std::span<const std::int64_t> recv_rows) {
    return finish(start_all_to_all(send, send_rows, recv_rows));
  }

  /// Row r of counts (ranks, n) int32 goes to rank r; returns the rows that arrive, one of each
  /// rank, on the host: the one call that waits for the device.
  virtual std::vector<std::int64_t> exchange_counts(const Tensor& counts) = 0;

  /// The rows (sum of rows, D) of all ranks in rank order, rows[r] of rank r; `mine` (rows[rank],
  /// D) are this rank's. Any dtype. A group of one gets `mine`.
  virtual Tensor all_gather(const Tensor& mine, std::span<const std::int64_t> rows) = 0;

  /// This rank's rows of the sum of `whole` (fp32) over the group: rows[r] of them, in rank order,
  /// are rank r's. A group of one gets `whole`.
  virtual Tensor reduce_scatter(const Tensor& whole, std::span<const std::int64_t> rows) = 0;

  // Under way while this rank computes; the tensors are kept, and must not be touched, until
  // finish, after which what is computed sees the results.
  /// As all_reduce_sum.
  virtual void start_all_reduce_sum(const Tensor& inout) = 0;
  /// inout (n) fp32 becomes the sum over the group in this rank's share of it alone: counts[r]
  /// elements, in rank order, are rank r's.
  virtual void start_reduce_scatter(const Tensor& inout, std::span<const std::int64_t> counts) = 0;
  /// Not collective. receive takes the tensor that `from` has sent with this tag. Those of even
  /// tags and those of odd ones go apart: between two ranks each kind is received in the order of
  /// sending.
  virtual void start_send(const Tensor& tensor, int to, int tag) = 0;
  virtual void receive(const Tensor& tensor, int from, int tag) = 0;
  /// The two halves of it, between which this rank may compute.
  virtual Message start_receive(const Tensor& tensor, int from, int tag) = 0;
  virtual void finish(Message message) = 0;
  /// Lets what was started make progress.
  virtual void progress() = 0;
  /// Until at most `left` of what was started here is under way.
  virtual void finish(std::size_t left = 0) = 0;

  /// inout (n): every rank gets all shares; counts[r] elements, in rank order, come from rank r.
  virtual void all_gather_shares(const Tensor& inout, std::span<const std::int64_t> counts) = 0;

  /// Bytes of tensors that this rank has sent, where a sum over n ranks goes around a ring: 2 (n -
  /// 1) / n of it, (n - 1) / n to gather or to get the sum of a share.
  virtual double bytes_sent() const = 0;
};

/// Elements that one MPI call may count: more of a sum, a share or a message's bytes go in pieces.
inline constexpr std::size_t kMostElements = std::size_t{1} << 30U;

// Backend and group must outlive the collectives.
/// Tensors of a backend on the host, over MPI.
std::unique_ptr<Collectives> make_mpi_collectives(Backend& backend, const Communicator& group,
                                                  std::size_t most = kMostElements);
/// Tensors of any backend, over MPI, through copies on the host.
std::unique_ptr<Collectives> make_staged_collectives(Backend& backend, const Communicator& group,
                                                     std::size_t most = kMostElements);

/// Collective over the world: each rank makes those of its groups, in one order of kinds.
using MakeCollectives = std::function<std::unique_ptr<Collectives>(const Communicator& group)>;
/// Tensors of a GPU, over NCCL. Collective over the world, which must outlive the collectives, as
/// they share connections. Throws kUsage in a build without NCCL.
MakeCollectives make_nccl_collectives(Backend& backend, const Communicator& world);
/// The version of the library that is loaded, such as "2.28.9"; "" in a build without NCCL.
std::string nccl_version();
/// Whether several ranks may have one GPU: from 2.30 on, if NCCL_MULTI_RANK_GPU_ENABLE is 1.
bool nccl_shares_gpus();

}  // namespace moesaic::comm
