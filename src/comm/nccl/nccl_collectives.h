#pragma once

#include <deque>
#include <memory>
#include <span>
#include <vector>

#include "comm/collectives.h"
#include "comm/nccl/nccl_world.h"
#include "comm/sent_bytes.h"

namespace moesaic::comm {

/// Tensors of a GPU, over NCCL. No call waits for the device but exchange_counts: what is sent
/// waits there for what was computed before, and what is computed later for what arrives.
class NcclCollectives final : public Collectives {
 public:
  /// Collective over the world, each rank with its group of the same kind.
  NcclCollectives(std::shared_ptr<NcclWorld> world, const Communicator& group);

  const Communicator& group() const override { return group_; }
  void all_reduce_sum(const Tensor& inout) override;
  void all_reduce_max(const Tensor& inout) override;
  Exchange start_all_to_all(const Tensor& send, std::span<const std::int64_t> send_rows,
                            std::span<const std::int64_t> recv_rows) override;
  Tensor finish(Exchange exchange) override;
  std::vector<std::int64_t> exchange_counts(const Tensor& counts) override;
  Tensor all_gather(const Tensor& mine, std::span<const std::int64_t> rows) override;
  Tensor reduce_scatter(const Tensor& whole, std::span<const std::int64_t> rows) override;
  void start_all_reduce_sum(const Tensor& inout) override;
  void start_reduce_scatter(const Tensor& inout, std::span<const std::int64_t> counts) override;
  void start_send(const Tensor& tensor, int to, int tag) override;
  void receive(const Tensor& tensor, int from, int tag) override;
  Message start_receive(const Tensor& tensor, int from, int tag) override;
  void finish(Message message) override;
  void progress() override;
  void finish(std::size_t left) override;
  void all_gather_shares(const Tensor& inout, std::span<const std::int64_t> counts) override;
  double bytes_sent() const override { return sent_.total(); }

 private:
  // What a started operation keeps until its end.
  struct Started {
    Tensor tensor;
    Mark done;
  };

  /// Queues calls behind what has been computed; the mark is behind them.
  template <class Calls>
  Mark launch(Operation operation, const Calls& calls);
  /// The same, and what is computed from now on waits for them.
  template <class Calls>
  void in_order(Operation operation, const Calls& calls);
  template <class Call>
  Mark pass(Operation operation, int member, const Lane& lane, const Call& call);

  // Calls of NCCL. A part is so many units of each rank.
  void queue_sum(const Tensor& inout) const;
  void queue_rows(const Tensor& send, std::span<const std::int64_t> send_rows, const Tensor& recv,
                  std::span<const std::int64_t> recv_rows) const;
  void queue_gather(const std::byte* own, std::byte* whole, std::size_t unit,
                    std::span<const std::int64_t> parts) const;
  void queue_sum_of_shares(const float* terms, float* own, std::size_t unit,
                           std::span<const std::int64_t> parts) const;

  const std::shared_ptr<NcclWorld> world_;
  const Communicator& group_;
  const ncclComm_t comm_;
  const Lanes lanes_;
  SentBytes sent_;
  std::deque<Started> started_;
};

}  // namespace moesaic::comm
