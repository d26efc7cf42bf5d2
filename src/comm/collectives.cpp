#include "comm/collectives.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <vector>

namespace moesaic::comm {
namespace {

std::int64_t sum(std::span<const std::int64_t> rows) {
  return std::accumulate(rows.begin(), rows.end(), std::int64_t{0});
}

// Rows of tensors as MPI types, so that counts stay below int's limit. They live as long as the
// group's collectives: what is under way uses them.
class RowTypes {
 public:
  RowTypes() = default;
  ~RowTypes() {
    for (auto& [bytes, type] : types_) {
      MPI_Type_free(&type);
    }
  }
  RowTypes(const RowTypes&) = delete;
  RowTypes& operator=(const RowTypes&) = delete;

  MPI_Datatype of(const Tensor& rows) {
    const std::size_t bytes = static_cast<std::size_t>(rows.dim(1)) * size_of(rows.dtype());
    const auto [entry, added] = types_.try_emplace(bytes, MPI_DATATYPE_NULL);
    if (added) {
      MPI_Type_contiguous(mpi_count(bytes), MPI_BYTE, &entry->second);
      MPI_Type_commit(&entry->second);
    }
    return entry->second;
  }

 private:
  std::map<std::size_t, MPI_Datatype> types_;  // by bytes of a row
};

// Tensors on the host, over MPI.
class MpiCollectives final : public Collectives {
 public:
  MpiCollectives(const Communicator& group, std::size_t most) : group_(group), most_(most) {}

  const Communicator& group() const override { return group_; }

  void all_reduce_sum(const Tensor& inout) override {
    if (group_.size() == 1) {
      return;
    }
    sent_ += 2.0 * ring() * bytes(inout);
    constexpr std::size_t kPiece = std::size_t{1} << 24U;  // bounds the library's scratch memory
    const std::span<float> values = inout.as<float>();
    for (std::size_t begin = 0; begin < values.size(); begin += kPiece) {
      group_.all_reduce(values.subspan(begin, std::min(kPiece, values.size() - begin)),
                        Reduce::kSum);
    }
  }

  void all_reduce_max(const Tensor& inout) override {
    if (group_.size() > 1) {
      sent_ += 2.0 * ring() * bytes(inout);
      group_.all_reduce(inout.as<std::int32_t>(), Reduce::kMax);
    }
  }

  Exchange start_all_to_all(Backend& backend, const Tensor& send,
                            std::span<const std::int64_t> send_rows,
                            std::span<const std::int64_t> recv_rows) override {
    Exchange x;
    x.send = send;
    if (group_.size() == 1) {
      x.recv = send;
      return x;
    }
    x.recv = backend.empty(send.dtype(), {sum(recv_rows), send.dim(1)});
    MPI_Datatype const row = row_types_.of(send);
    const std::int64_t leaving =
        sum(send_rows) - send_rows[static_cast<std::size_t>(group_.rank())];
    sent_ +=
        static_cast<double>(leaving * send.dim(1)) * static_cast<double>(size_of(send.dtype()));
    lay_out(send_rows, x.send_count, x.send_begin);
    lay_out(recv_rows, x.recv_count, x.recv_begin);
    x.number = group_.start();
    MPI_Ialltoallv(send.data(), x.send_count.data(), x.send_begin.data(), row, x.recv.data(),
                   x.recv_count.data(), x.recv_begin.data(), row, group_.handle(), &x.request);
    return x;
  }

  Tensor finish(Exchange exchange) override {
    if (group_.size() == 1) {
      return exchange.recv;
    }
    const Ledger::Entry entry = group_.enter_started(Operation::kAllToAll, exchange.number);
    MPI_Wait(&exchange.request, MPI_STATUS_IGNORE);
    return exchange.recv;
  }

  Tensor all_gather(Backend& backend, const Tensor& mine,
                    std::span<const std::int64_t> rows) override {
    if (group_.size() == 1) {
      return mine;
    }
    Tensor whole = backend.empty(mine.dtype(), {sum(rows), mine.dim(1)});
    MPI_Datatype const row = row_types_.of(mine);
    sent_ += ring() * bytes(whole);
    std::vector<int> count, begin;
    lay_out(rows, count, begin);
    const Ledger::Entry entry = group_.enter(Operation::kAllGather);
    MPI_Allgatherv(mine.data(), mpi_count(static_cast<std::size_t>(mine.dim(0))), row, whole.data(),
                   count.data(), begin.data(), row, group_.handle());
    return whole;
  }

  Tensor reduce_scatter(Backend& backend, const Tensor& whole,
                        std::span<const std::int64_t> rows) override {
    if (group_.size() == 1) {
      return whole;
    }
    const std::int64_t width = whole.dim(1);
    sent_ += ring() * bytes(whole);
    Tensor mine =
        backend.empty(DType::kF32, {rows[static_cast<std::size_t>(group_.rank())], width});
    std::vector<std::int64_t> counts;
    for (const std::int64_t n : rows) {
      counts.push_back(n * width);
    }
    const Ledger::Entry entry = group_.enter(Operation::kReduceScatter);
    const std::span<const float> values = whole.as<float>();
    const std::span<float> share = mine.as<float>();
    if (fits(values.size())) {
      std::vector<int> count, begin;
      lay_out(counts, count, begin);
      MPI_Reduce_scatter(values.data(), share.data(), count.data(), MPI_FLOAT, MPI_SUM,
                         group_.handle());
      return mine;
    }
    for_pieces_of_shares(counts, [&](int owner, std::size_t begin, std::size_t of_share, int n) {
      float* const result = owner == group_.rank() ? share.data() + of_share : nullptr;
      MPI_Reduce(values.data() + begin, result, n, MPI_FLOAT, MPI_SUM, owner, group_.handle());
    });
    return mine;
  }

  void start_all_reduce_sum(const Tensor& inout) override {
    if (group_.size() == 1) {
      return;
    }
    sent_ += 2.0 * ring() * bytes(inout);
    const std::span<float> values = inout.as<float>();
    for_pieces(values.size(), std::min(most_, kMostSummed), [&](std::size_t begin, int n) {
      MPI_Request request = MPI_REQUEST_NULL;
      MPI_Iallreduce(MPI_IN_PLACE, values.data() + begin, n, MPI_FLOAT, MPI_SUM, group_.handle(),
                     &request);
      keep(request, started(inout, Operation::kAllReduce, group_.start()));
    });
  }

  void start_reduce_scatter(const Tensor& inout, std::span<const std::int64_t> counts) override {
    if (group_.size() == 1) {
      return;
    }
    sent_ += ring() * bytes(inout);
    const std::span<float> values = inout.as<float>();
    if (fits(values.size())) {
      Started sum = started(inout, Operation::kReduceScatter, group_.start());
      std::vector<int> begin;
      lay_out(counts, sum.counts, begin);
      const auto own = static_cast<std::size_t>(group_.rank());
      sum.share = values.subspan(static_cast<std::size_t>(begin[own]),
                                 static_cast<std::size_t>(sum.counts[own]));
      sum.result.resize(sum.share.size());
      MPI_Request request = MPI_REQUEST_NULL;
      MPI_Ireduce_scatter(values.data(), sum.result.data(), sum.counts.data(), MPI_FLOAT, MPI_SUM,
                          group_.handle(), &request);
      keep(request, std::move(sum));
      return;
    }
    for_pieces_of_shares(counts, [&](int owner, std::size_t begin, std::size_t, int n) {
      Started sum = started(inout, Operation::kReduceScatter, group_.start());
      if (owner == group_.rank()) {
        sum.share = values.subspan(begin, static_cast<std::size_t>(n));
        sum.result.resize(sum.share.size());
      }
      MPI_Request request = MPI_REQUEST_NULL;
      MPI_Ireduce(values.data() + begin, sum.result.data(), n, MPI_FLOAT, MPI_SUM, owner,
                  group_.handle(), &request);
      keep(request, std::move(sum));
    });
  }

  void start_send(const Tensor& tensor, int to, int tag) override {
    sent_ += bytes(tensor);
    const std::byte* const values = static_cast<const std::byte*>(tensor.data());
    for_pieces(tensor.bytes(), [&](std::size_t begin, int n) {  // MPI keeps them in this order
      MPI_Request request = MPI_REQUEST_NULL;
      MPI_Isend(values + begin, n, MPI_BYTE, to, tag, group_.handle(), &request);
      keep(request, started(tensor, Operation::kSend, to));
    });
    progress();
  }

  void receive(const Tensor& tensor, int from, int tag) override {
    finish(start_receive(tensor, from, tag));
  }

  Message start_receive(const Tensor& tensor, int from, int tag) override {
    Message message{tensor, from, {}};
    std::byte* const values = static_cast<std::byte*>(tensor.data());
    for_pieces(tensor.bytes(), [&](std::size_t begin, int n) {
      MPI_Irecv(values + begin, n, MPI_BYTE, from, tag, group_.handle(),
                &message.requests.emplace_back());
    });
    return message;
  }

  void finish(Message message) override {
    const Ledger::Entry entry = group_.enter_message(Operation::kReceive, message.from);
    MPI_Waitall(static_cast<int>(message.requests.size()), message.requests.data(),
                MPI_STATUSES_IGNORE);
  }

  void progress() override {
    for (std::size_t i = 0; i < requests_.size();) {
      int done = 0;
      MPI_Test(&requests_[i], &done, MPI_STATUS_IGNORE);
      if (done != 0) {
        complete(i);
      } else {
        ++i;
      }
    }
  }

  void finish(std::size_t left) override {
    while (requests_.size() > left) {
      wait_for_first();
      complete(0);
    }
  }

  void all_gather_shares(const Tensor& inout, std::span<const std::int64_t> counts) override {
    if (group_.size() == 1) {
      return;
    }
    sent_ += ring() * bytes(inout);
    const Ledger::Entry entry = group_.enter(Operation::kAllGather);
    const std::span<float> values = inout.as<float>();
    if (fits(values.size())) {
      std::vector<int> count, begin;
      lay_out(counts, count, begin);
      MPI_Allgatherv(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, values.data(), count.data(), begin.data(),
                     MPI_FLOAT, group_.handle());
      return;
    }
    for_pieces_of_shares(counts, [&](int owner, std::size_t begin, std::size_t, int n) {
      MPI_Bcast(values.data() + begin, n, MPI_FLOAT, owner, group_.handle());
    });
  }

  double bytes_sent() const override { return sent_; }

 private:
  static double bytes(const Tensor& tensor) { return static_cast<double>(tensor.bytes()); }
  double ring() const {
    return static_cast<double>(group_.size() - 1) / static_cast<double>(group_.size());
  }

  bool fits(std::size_t elements) const { return elements <= most_; }

  static constexpr std::size_t kMostSummed = std::size_t{1} << 28U;  // at once: 1 GiB of scratch

  /// piece(begin, n) for elements [begin, begin + n), in their order, at most `most` at once.
  template <class Piece>
  static void for_pieces(std::size_t elements, std::size_t most, Piece&& piece) {
    for (std::size_t begin = 0; begin < elements; begin += most) {
      piece(begin, mpi_count(std::min(most, elements - begin)));
    }
  }
  template <class Piece>
  void for_pieces(std::size_t elements, Piece&& piece) const {
    for_pieces(elements, most_, piece);
  }

  /// piece(owner, begin, begin in the owner's share, n) for the shares of all ranks.
  template <class Piece>
  void for_pieces_of_shares(std::span<const std::int64_t> counts, Piece&& piece) const {
    std::size_t first = 0;
    for (int owner = 0; owner < group_.size(); ++owner) {
      const auto share = static_cast<std::size_t>(counts[static_cast<std::size_t>(owner)]);
      for_pieces(share, [&](std::size_t begin, int n) { piece(owner, first + begin, begin, n); });
      first += share;
    }
  }

  static void lay_out(std::span<const std::int64_t> rows, std::vector<int>& count,
                      std::vector<int>& begin) {
    std::size_t total = 0;
    for (const std::int64_t n : rows) {
      count.push_back(mpi_count(static_cast<std::size_t>(n)));
      begin.push_back(mpi_count(total));
      total += static_cast<std::size_t>(n);
    }
  }

  // What a started operation needs until its end.
  struct Started {
    Tensor tensor;
    Operation operation;
    std::int64_t number;  // of the collective; of a message, its receiver
    std::vector<int> counts;
    std::span<float> share;  // where result goes
    std::vector<float> result;
  };

  static Started started(const Tensor& tensor, Operation operation, std::int64_t number) {
    return {tensor, operation, number, {}, {}, {}};
  }

  void wait_for_first() {
    const Started& first = started_.front();
    const Ledger::Entry entry =
        first.operation == Operation::kSend
            ? group_.enter_message(first.operation, static_cast<int>(first.number))
            : group_.enter_started(first.operation, first.number);
    MPI_Wait(&requests_.front(), MPI_STATUS_IGNORE);
  }

  void keep(MPI_Request request, Started started) {
    requests_.push_back(request);
    started_.push_back(std::move(started));
  }

  void complete(std::size_t i) {
    std::copy(started_[i].result.begin(), started_[i].result.end(), started_[i].share.begin());
    requests_.erase(requests_.begin() + static_cast<std::ptrdiff_t>(i));
    started_.erase(started_.begin() + static_cast<std::ptrdiff_t>(i));
  }

  const Communicator& group_;
  const std::size_t most_;
  RowTypes row_types_;
  std::vector<MPI_Request> requests_;
  std::vector<Started> started_;  // one for each request
  double sent_ = 0.0;
};

}  // namespace

std::unique_ptr<Collectives> make_mpi_collectives(const Communicator& group, std::size_t most) {
  return std::make_unique<MpiCollectives>(group, most);
}

}  // namespace moesaic::comm
