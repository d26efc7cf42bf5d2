#include "comm/nccl/nccl_collectives.h"

#include <algorithm>
#include <numeric>

namespace moesaic::comm {
namespace {

std::int64_t sum(std::span<const std::int64_t> rows) {
  return std::accumulate(rows.begin(), rows.end(), std::int64_t{0});
}

bool all_equal(std::span<const std::int64_t> parts) {
  return std::adjacent_find(parts.begin(), parts.end(), std::not_equal_to<>()) == parts.end();
}

std::size_t count(std::int64_t n) { return static_cast<std::size_t>(n); }

std::size_t elements(const Tensor& tensor) { return count(tensor.numel()); }

// Calls that NCCL carries out as one, so that their order does not matter.
template <class Calls>
void grouped(const Calls& calls) {
  checked(ncclGroupStart(), "ncclGroupStart");
  calls();
  checked(ncclGroupEnd(), "ncclGroupEnd");
}

// part(owner, begin, n) for the parts of all ranks that have one.
template <class Part>
void for_parts(std::span<const std::int64_t> sizes, const Part& part) {
  std::size_t begin = 0;
  for (std::size_t owner = 0; owner < sizes.size(); ++owner) {
    if (sizes[owner] > 0) {
      part(static_cast<int>(owner), begin, count(sizes[owner]));
    }
    begin += count(sizes[owner]);
  }
}

// What an all-to-all keeps until it has ended.
struct Rows {
  Tensor send;
  Mark done;
};

float* floats(const Tensor& tensor) {
  require(tensor.dtype() == DType::kF32, "a sum over ranks of another type than fp32");
  return reinterpret_cast<float*>(tensor.data());
}

}  // namespace

NcclCollectives::NcclCollectives(std::shared_ptr<NcclWorld> world, const Communicator& group)
    : world_(std::move(world)),
      group_(group),
      comm_(world_->join(group)),
      lanes_(world_->open_lanes(group)),
      sent_(group) {}

template <class Calls>
Mark NcclCollectives::launch(Operation operation, const Calls& calls) {
  Mark(world_->compute()).hold(world_->stream());
  calls();
  Mark done(world_->stream());
  group_.launched(operation, [done] { return done.reached(); });
  return done;
}

template <class Calls>
void NcclCollectives::in_order(Operation operation, const Calls& calls) {
  launch(operation, calls).hold(world_->compute());
}

void NcclCollectives::all_reduce_sum(const Tensor& inout) {
  if (group_.size() > 1) {
    sent_.sum(inout);
    in_order(Operation::kAllReduce, [&] { queue_sum(inout); });
  }
}

void NcclCollectives::queue_sum(const Tensor& inout) const {
  float* const values = floats(inout);
  checked(
      ncclAllReduce(values, values, elements(inout), ncclFloat, ncclSum, comm_, world_->stream()),
      "ncclAllReduce");
}

void NcclCollectives::all_reduce_max(const Tensor& inout) {
  require(inout.dtype() == DType::kI32, "the largest over ranks of another type than int32");
  if (group_.size() > 1) {
    sent_.sum(inout);
    in_order(Operation::kAllReduce, [&] {
      checked(ncclAllReduce(inout.data(), inout.data(), elements(inout), ncclInt32, ncclMax, comm_,
                            world_->stream()),
              "ncclAllReduce");
    });
  }
}

void NcclCollectives::queue_rows(const Tensor& send, std::span<const std::int64_t> send_rows,
                                 const Tensor& recv,
                                 std::span<const std::int64_t> recv_rows) const {
  cudaStream_t const stream = world_->stream();
  const std::size_t row = count(send.dim(1)) * size_of(send.dtype());
  const std::byte* own = nullptr;
  std::byte* own_place = nullptr;
  grouped([&] {
    for_parts(send_rows, [&](int to, std::size_t begin, std::size_t rows) {
      const std::byte* const part = send.data() + begin * row;
      if (to == group_.rank()) {
        own = part;
      } else {
        checked(ncclSend(part, rows * row, ncclInt8, to, comm_, stream), "ncclSend");
      }
    });
    for_parts(recv_rows, [&](int from, std::size_t begin, std::size_t rows) {
      std::byte* const part = recv.data() + begin * row;
      if (from == group_.rank()) {
        own_place = part;
      } else {
        checked(ncclRecv(part, rows * row, ncclInt8, from, comm_, stream), "ncclRecv");
      }
    });
  });
  if (own != nullptr) {
    const auto rows = count(send_rows[count(group_.rank())]);
    cuda::check(cudaMemcpyAsync(own_place, own, rows * row, cudaMemcpyDeviceToDevice, stream),
                "a rank's own rows");
  }
}

Exchange NcclCollectives::start_all_to_all(const Tensor& send,
                                           std::span<const std::int64_t> send_rows,
                                           std::span<const std::int64_t> recv_rows) {
  if (group_.size() == 1) {
    return {send, nullptr};
  }
  const Tensor recv = world_->backend().empty(send.dtype(), {sum(recv_rows), send.dim(1)});
  sent_.rows(send, send_rows);
  const Mark done =
      launch(Operation::kAllToAll, [&] { queue_rows(send, send_rows, recv, recv_rows); });
  return {recv, std::make_shared<Rows>(Rows{send, done})};
}

Tensor NcclCollectives::finish(Exchange exchange) {
  if (const auto rows = std::static_pointer_cast<Rows>(exchange.pending)) {
    rows->done.hold(world_->compute());
  }
  return exchange.recv;
}

std::vector<std::int64_t> NcclCollectives::exchange_counts(const Tensor& counts) {
  require(counts.dim(0) == group_.size() && counts.dtype() == DType::kI32,
          "exchange_counts: a row of int32 for each rank");
  Tensor arrived = counts;
  if (group_.size() > 1) {
    const std::vector<std::int64_t> one_each(count(group_.size()), 1);
    arrived = finish(start_all_to_all(counts, one_each, one_each));
  }
  std::vector<std::int32_t> host(elements(arrived));
  world_->backend().download(arrived, std::as_writable_bytes(std::span(host)));
  return {host.begin(), host.end()};
}

void NcclCollectives::queue_gather(const std::byte* own, std::byte* whole, std::size_t unit,
                                   std::span<const std::int64_t> parts) const {
  cudaStream_t const stream = world_->stream();
  if (all_equal(parts)) {
    checked(ncclAllGather(own, whole, count(parts.front()) * unit, ncclInt8, comm_, stream),
            "ncclAllGather");
    return;
  }
  grouped([&] {
    for_parts(parts, [&](int owner, std::size_t begin, std::size_t n) {
      std::byte* const part = whole + begin * unit;
      checked(ncclBroadcast(owner == group_.rank() ? own : part, part, n * unit, ncclInt8, owner,
                            comm_, stream),
              "ncclBroadcast");
    });
  });
}

Tensor NcclCollectives::all_gather(const Tensor& mine, std::span<const std::int64_t> rows) {
  if (group_.size() == 1) {
    return mine;
  }
  Tensor whole = world_->backend().empty(mine.dtype(), {sum(rows), mine.dim(1)});
  sent_.share(whole);
  in_order(Operation::kAllGather, [&] {
    queue_gather(mine.data(), whole.data(), count(mine.dim(1)) * size_of(mine.dtype()), rows);
  });
  return whole;
}

void NcclCollectives::all_gather_shares(const Tensor& inout, std::span<const std::int64_t> counts) {
  if (group_.size() == 1) {
    return;
  }
  sent_.share(inout);
  const auto begin = count(sum(counts.first(count(group_.rank()))));
  in_order(Operation::kAllGather, [&] {
    const std::size_t unit = size_of(inout.dtype());
    queue_gather(inout.data() + begin * unit, inout.data(), unit, counts);
  });
}

// `own`: where this rank's part of the sum goes.
void NcclCollectives::queue_sum_of_shares(const float* terms, float* own, std::size_t unit,
                                          std::span<const std::int64_t> parts) const {
  cudaStream_t const stream = world_->stream();
  if (all_equal(parts)) {
    checked(ncclReduceScatter(terms, own, count(parts.front()) * unit, ncclFloat, ncclSum, comm_,
                              stream),
            "ncclReduceScatter");
    return;
  }
  grouped([&] {
    for_parts(parts, [&](int owner, std::size_t begin, std::size_t n) {
      float* const result = owner == group_.rank() ? own : nullptr;
      checked(ncclReduce(terms + begin * unit, result, n * unit, ncclFloat, ncclSum, owner, comm_,
                         stream),
              "ncclReduce");
    });
  });
}

Tensor NcclCollectives::reduce_scatter(const Tensor& whole, std::span<const std::int64_t> rows) {
  if (group_.size() == 1) {
    return whole;
  }
  sent_.share(whole);
  Tensor mine = world_->backend().empty(DType::kF32, {rows[count(group_.rank())], whole.dim(1)});
  in_order(Operation::kReduceScatter,
           [&] { queue_sum_of_shares(floats(whole), floats(mine), count(whole.dim(1)), rows); });
  return mine;
}

void NcclCollectives::start_all_reduce_sum(const Tensor& inout) {
  if (group_.size() > 1) {
    sent_.sum(inout);
    started_.push_back({inout, launch(Operation::kAllReduce, [&] { queue_sum(inout); })});
  }
}

void NcclCollectives::start_reduce_scatter(const Tensor& inout,
                                           std::span<const std::int64_t> counts) {
  if (group_.size() == 1) {
    return;
  }
  sent_.share(inout);
  float* const values = floats(inout);
  float* const own = values + sum(counts.first(count(group_.rank())));
  started_.push_back({inout, launch(Operation::kReduceScatter,
                                    [&] { queue_sum_of_shares(values, own, 1, counts); })});
}

// A message waits in its lane alone, and holds up nothing else.
template <class Call>
Mark NcclCollectives::pass(Operation operation, int member, const Lane& lane, const Call& call) {
  cudaStream_t const stream = lane.stream.get();
  Mark(world_->compute()).hold(stream);
  call(lane.comm, stream);
  Mark done(stream);
  group_.launched_message(operation, member, [done] { return done.reached(); });
  return done;
}

void NcclCollectives::start_send(const Tensor& tensor, int to, int tag) {
  sent_.message(tensor);
  if (tensor.bytes() > 0) {
    started_.push_back(
        {tensor, pass(Operation::kSend, to, lanes_.to(to, tag), [&](auto comm, auto stream) {
           checked(ncclSend(tensor.data(), tensor.bytes(), ncclInt8, 1, comm, stream), "ncclSend");
         })});
  }
}

Message NcclCollectives::start_receive(const Tensor& tensor, int from, int tag) {
  if (tensor.bytes() == 0) {
    return {tensor, nullptr};
  }
  const Mark done =
      pass(Operation::kReceive, from, lanes_.from(from, tag), [&](auto comm, auto stream) {
        checked(ncclRecv(tensor.data(), tensor.bytes(), ncclInt8, 0, comm, stream), "ncclRecv");
      });
  return {tensor, std::make_shared<Mark>(done)};
}

void NcclCollectives::receive(const Tensor& tensor, int from, int tag) {
  finish(start_receive(tensor, from, tag));
}

void NcclCollectives::finish(Message message) {
  if (const auto done = std::static_pointer_cast<Mark>(message.pending)) {
    done->hold(world_->compute());
  }
}

void NcclCollectives::progress() {
  std::erase_if(started_, [](const Started& started) { return started.done.reached(); });
}

void NcclCollectives::finish(std::size_t left) {
  while (started_.size() > left) {
    started_.front().done.hold(world_->compute());
    started_.pop_front();
  }
}

}  // namespace moesaic::comm
