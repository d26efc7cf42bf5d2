#include <algorithm>
#include <numeric>
#include <vector>

#include "base/share.h"
#include "comm/collectives.h"
#include "comm/mpi/host_side.h"
#include "comm/mpi/row_types.h"
#include "comm/sent_bytes.h"

namespace moesaic::comm {
namespace {

std::int64_t sum(std::span<const std::int64_t> rows) {
  return std::accumulate(rows.begin(), rows.end(), std::int64_t{0});
}

// What an all-to-all needs until it has ended.
struct Rows {
  Tensor send, arrives;  // on the host
  Parts sent, received;
  MPI_Request request = MPI_REQUEST_NULL;
  std::int64_t number = 0;  // in the ledger
};

// What a message needs until it is there.
struct Arrival {
  Tensor place;  // on the host
  int from = 0;
  std::vector<MPI_Request> requests;
};

// Tensors over MPI.
class MpiCollectives final : public Collectives {
 public:
  MpiCollectives(const HostSide& side, const Communicator& group, std::size_t most)
      : side_(side), group_(group), most_(most), sent_(group) {}

  const Communicator& group() const override { return group_; }

  void all_reduce_sum(const Tensor& inout) override {
    if (group_.size() == 1) {
      return;
    }
    sent_.sum(inout);
    constexpr std::size_t kPiece = std::size_t{1} << 24U;  // bounds the library's scratch memory
    const Tensor place = side_.values_of(inout);
    const std::span<float> values = place.as<float>();
    for (std::size_t begin = 0; begin < values.size(); begin += kPiece) {
      group_.all_reduce(values.subspan(begin, std::min(kPiece, values.size() - begin)),
                        Reduce::kSum);
    }
    side_.land(place, inout);
  }

  void all_reduce_max(const Tensor& inout) override {
    if (group_.size() > 1) {
      sent_.sum(inout);
      const Tensor place = side_.values_of(inout);
      group_.all_reduce(place.as<std::int32_t>(), Reduce::kMax);
      side_.land(place, inout);
    }
  }

  Exchange start_all_to_all(const Tensor& send, std::span<const std::int64_t> send_rows,
                            std::span<const std::int64_t> recv_rows) override {
    if (group_.size() == 1) {
      return {send, nullptr};
    }
    const Tensor recv = side_.empty(send.dtype(), {sum(recv_rows), send.dim(1)});
    MPI_Datatype const row = row_types_.of(send);
    sent_.rows(send, send_rows);
    const auto x = std::make_shared<Rows>(
        Rows{side_.values_of(send), side_.place_for(recv), Parts(send_rows), Parts(recv_rows)});
    x->number = group_.start();
    MPI_Ialltoallv(x->send.data(), x->sent.count.data(), x->sent.begin.data(), row,
                   x->arrives.data(), x->received.count.data(), x->received.begin.data(), row,
                   group_.handle(), &x->request);
    return {recv, x};
  }

  Tensor finish(Exchange exchange) override {
    if (const auto rows = std::static_pointer_cast<Rows>(exchange.pending)) {
      {
        const Ledger::Entry entry = group_.enter_started(Operation::kAllToAll, rows->number);
        MPI_Wait(&rows->request, MPI_STATUS_IGNORE);
      }
      side_.land(rows->arrives, exchange.recv);
    }
    return exchange.recv;
  }

  std::vector<std::int64_t> exchange_counts(const Tensor& counts) override {
    require(counts.dim(0) == group_.size(), "exchange_counts: a row for each rank");
    Tensor all = side_.values_of(counts);
    if (group_.size() > 1) {
      const Tensor sent = all;
      all = side_.host_only(counts.dtype(), counts.shape());
      const int n = mpi_count(static_cast<std::size_t>(counts.dim(1)));
      const Ledger::Entry entry = group_.enter(Operation::kAllToAll);
      MPI_Alltoall(sent.data(), n, MPI_INT32_T, all.data(), n, MPI_INT32_T, group_.handle());
    }
    const std::span<const std::int32_t> values = all.as<std::int32_t>();
    return {values.begin(), values.end()};
  }

  Tensor all_gather(const Tensor& mine, std::span<const std::int64_t> rows) override {
    if (group_.size() == 1) {
      return mine;
    }
    Tensor whole = side_.empty(mine.dtype(), {sum(rows), mine.dim(1)});
    MPI_Datatype const row = row_types_.of(mine);
    sent_.share(whole);
    const Parts parts(rows);
    const Tensor values = side_.values_of(mine), place = side_.place_for(whole);
    {
      const Ledger::Entry entry = group_.enter(Operation::kAllGather);
      MPI_Allgatherv(values.data(), mpi_count(static_cast<std::size_t>(mine.dim(0))), row,
                     place.data(), parts.count.data(), parts.begin.data(), row, group_.handle());
    }
    side_.land(place, whole);
    return whole;
  }

  Tensor reduce_scatter(const Tensor& whole, std::span<const std::int64_t> rows) override {
    if (group_.size() == 1) {
      return whole;
    }
    const std::int64_t width = whole.dim(1);
    sent_.share(whole);
    Tensor mine = side_.empty(DType::kF32, {rows[own()], width});
    std::vector<std::int64_t> counts;
    for (const std::int64_t n : rows) {
      counts.push_back(n * width);
    }
    const Tensor terms = side_.values_of(whole), place = side_.place_for(mine);
    sum_shares(terms.as<float>(), counts, place.as<float>());
    side_.land(place, mine);
    return mine;
  }

  void start_all_reduce_sum(const Tensor& inout) override {
    if (group_.size() == 1) {
      return;
    }
    sent_.sum(inout);
    const Tensor place = side_.values_of(inout);
    const std::span<float> values = place.as<float>();
    for_pieces(values.size(), std::min(most_, kMostSummed), [&](std::size_t begin, int n) {
      MPI_Request request = MPI_REQUEST_NULL;
      MPI_Iallreduce(MPI_IN_PLACE, values.data() + begin, n, MPI_FLOAT, MPI_SUM, group_.handle(),
                     &request);
      Started sum = started(place, inout, Operation::kAllReduce, group_.start());
      sum.lands = slice(begin, n);
      keep(request, std::move(sum));
    });
  }

  void start_reduce_scatter(const Tensor& inout, std::span<const std::int64_t> counts) override {
    if (group_.size() == 1) {
      return;
    }
    sent_.share(inout);
    const Tensor place = side_.values_of(inout);
    const std::span<float> values = place.as<float>();
    if (fits(values.size())) {
      Started sum = started(place, inout, Operation::kReduceScatter, group_.start());
      Parts parts(counts);
      sum.counts = std::move(parts.count);
      sum.lands = {parts.begin[own()], sum.counts[own()]};
      sum.result.resize(static_cast<std::size_t>(sum.lands.count));
      MPI_Request request = MPI_REQUEST_NULL;
      MPI_Ireduce_scatter(values.data(), sum.result.data(), sum.counts.data(), MPI_FLOAT, MPI_SUM,
                          group_.handle(), &request);
      keep(request, std::move(sum));
      return;
    }
    for_pieces_of_shares(counts, [&](int owner, std::size_t begin, std::size_t, int n) {
      Started sum = started(place, inout, Operation::kReduceScatter, group_.start());
      if (owner == group_.rank()) {
        sum.lands = slice(begin, n);
        sum.result.resize(static_cast<std::size_t>(n));
      }
      MPI_Request request = MPI_REQUEST_NULL;
      MPI_Ireduce(values.data() + begin, sum.result.data(), n, MPI_FLOAT, MPI_SUM, owner,
                  group_.handle(), &request);
      keep(request, std::move(sum));
    });
  }

  void start_send(const Tensor& tensor, int to, int tag) override {
    sent_.message(tensor);
    const Tensor values = side_.values_of(tensor);
    for_pieces(tensor.bytes(), [&](std::size_t begin, int n) {  // MPI keeps them in this order
      MPI_Request request = MPI_REQUEST_NULL;
      MPI_Isend(values.data() + begin, n, MPI_BYTE, to, tag, group_.handle(), &request);
      keep(request, started(values, tensor, Operation::kSend, to));
    });
    progress();
  }

  void receive(const Tensor& tensor, int from, int tag) override {
    finish(start_receive(tensor, from, tag));
  }

  Message start_receive(const Tensor& tensor, int from, int tag) override {
    const auto arrival = std::make_shared<Arrival>(Arrival{side_.place_for(tensor), from, {}});
    for_pieces(tensor.bytes(), [&](std::size_t begin, int n) {
      MPI_Irecv(arrival->place.data() + begin, n, MPI_BYTE, from, tag, group_.handle(),
                &arrival->requests.emplace_back());
    });
    return {tensor, arrival};
  }

  void finish(Message message) override {
    const auto arrival = std::static_pointer_cast<Arrival>(message.pending);
    {
      const Ledger::Entry entry = group_.enter_message(Operation::kReceive, arrival->from);
      MPI_Waitall(static_cast<int>(arrival->requests.size()), arrival->requests.data(),
                  MPI_STATUSES_IGNORE);
    }
    side_.land(arrival->place, message.tensor);
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
    sent_.share(inout);
    const Tensor place = side_.values_of(inout);
    gather_shares(place.as<float>(), counts);
    side_.land(place, inout);
  }

  double bytes_sent() const override { return sent_.total(); }

 private:
  std::size_t own() const { return static_cast<std::size_t>(group_.rank()); }

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

  /// share = this rank's part of the sum of all ranks' terms.
  void sum_shares(std::span<const float> terms, std::span<const std::int64_t> counts,
                  std::span<float> share) const {
    const Ledger::Entry entry = group_.enter(Operation::kReduceScatter);
    if (fits(terms.size())) {
      MPI_Reduce_scatter(terms.data(), share.data(), Parts(counts).count.data(), MPI_FLOAT, MPI_SUM,
                         group_.handle());
      return;
    }
    for_pieces_of_shares(counts, [&](int owner, std::size_t begin, std::size_t of_share, int n) {
      float* const result = owner == group_.rank() ? share.data() + of_share : nullptr;
      MPI_Reduce(terms.data() + begin, result, n, MPI_FLOAT, MPI_SUM, owner, group_.handle());
    });
  }

  void gather_shares(std::span<float> values, std::span<const std::int64_t> counts) const {
    const Ledger::Entry entry = group_.enter(Operation::kAllGather);
    if (fits(values.size())) {
      const Parts parts(counts);
      MPI_Allgatherv(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, values.data(), parts.count.data(),
                     parts.begin.data(), MPI_FLOAT, group_.handle());
      return;
    }
    for_pieces_of_shares(counts, [&](int owner, std::size_t begin, std::size_t, int n) {
      MPI_Bcast(values.data() + begin, n, MPI_FLOAT, owner, group_.handle());
    });
  }

  // What a started operation needs until its end.
  struct Started {
    Tensor place, tensor;  // the former on the host
    Operation operation;
    std::int64_t number;  // of the collective; of a message, its receiver
    std::vector<int> counts;
    std::vector<float> result;  // if it is not in its place
    Slice lands;                // the elements that have a new value
  };

  static Started started(const Tensor& place, const Tensor& tensor, Operation operation,
                         std::int64_t number) {
    return {place, tensor, operation, number, {}, {}, {}};
  }
  static Slice slice(std::size_t begin, int count) {
    return {static_cast<std::int64_t>(begin), count};
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
    const Started& done = started_[i];
    if (!done.result.empty()) {
      std::copy(done.result.begin(), done.result.end(),
                done.place.as<float>().begin() + done.lands.begin);
    }
    side_.land(done.place, done.tensor, done.lands.begin, done.lands.count);
    requests_.erase(requests_.begin() + static_cast<std::ptrdiff_t>(i));
    started_.erase(started_.begin() + static_cast<std::ptrdiff_t>(i));
  }

  HostSide side_;
  const Communicator& group_;
  const std::size_t most_;
  RowTypes row_types_;
  std::vector<MPI_Request> requests_;
  std::vector<Started> started_;  // one for each request
  SentBytes sent_;
};

}  // namespace

std::unique_ptr<Collectives> make_mpi_collectives(Backend& backend, const Communicator& group,
                                                  std::size_t most) {
  return std::make_unique<MpiCollectives>(HostSide(backend, HostSide::Copies::kNone), group, most);
}

std::unique_ptr<Collectives> make_staged_collectives(Backend& backend, const Communicator& group,
                                                     std::size_t most) {
  return std::make_unique<MpiCollectives>(HostSide(backend, HostSide::Copies::kAll), group, most);
}

}  // namespace moesaic::comm
