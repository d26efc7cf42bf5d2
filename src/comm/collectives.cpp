#include "comm/collectives.h"

#include <algorithm>
#include <numeric>
#include <vector>

#include "base/timer.h"

namespace moesaic::comm {
namespace {

// Tensors on the host, over MPI.
class MpiCollectives final : public Collectives {
 public:
  explicit MpiCollectives(const Communicator& group) : group_(group) {}

  const Communicator& group() const override { return group_; }

  void all_reduce_sum(const Tensor& inout) override {
    if (group_.size() == 1) {
      return;
    }
    const Timer timer;
    constexpr std::size_t kPiece = std::size_t{1} << 24U;  // bounds the library's scratch memory
    const std::span<float> values = inout.as<float>();
    for (std::size_t begin = 0; begin < values.size(); begin += kPiece) {
      group_.all_reduce(values.subspan(begin, std::min(kPiece, values.size() - begin)),
                        Reduce::kSum);
    }
    seconds_ += timer.seconds();
  }

  Tensor all_to_all(Backend& backend, const Tensor& send, std::span<const std::int64_t> send_rows,
                    std::span<const std::int64_t> recv_rows) override {
    if (group_.size() == 1) {
      return send;
    }
    const Timer timer;
    Tensor recv = backend.empty(
        send.dtype(),
        {std::accumulate(recv_rows.begin(), recv_rows.end(), std::int64_t{0}), send.dim(1)});
    MPI_Datatype row = MPI_DATATYPE_NULL;  // one row, so that counts stay below int's limit
    MPI_Type_contiguous(mpi_count(static_cast<std::size_t>(send.dim(1)) * size_of(send.dtype())),
                        MPI_BYTE, &row);
    MPI_Type_commit(&row);
    std::vector<int> send_count, send_begin, recv_count, recv_begin;
    lay_out(send_rows, send_count, send_begin);
    lay_out(recv_rows, recv_count, recv_begin);
    MPI_Alltoallv(send.data(), send_count.data(), send_begin.data(), row, recv.data(),
                  recv_count.data(), recv_begin.data(), row, group_.handle());
    MPI_Type_free(&row);
    seconds_ += timer.seconds();
    return recv;
  }

  double seconds() const override { return seconds_; }

 private:
  static void lay_out(std::span<const std::int64_t> rows, std::vector<int>& count,
                      std::vector<int>& begin) {
    std::size_t total = 0;
    for (const std::int64_t n : rows) {
      count.push_back(mpi_count(static_cast<std::size_t>(n)));
      begin.push_back(mpi_count(total));
      total += static_cast<std::size_t>(n);
    }
  }

  const Communicator& group_;
  double seconds_ = 0.0;
};

}  // namespace

std::unique_ptr<Collectives> make_mpi_collectives(const Communicator& group) {
  return std::make_unique<MpiCollectives>(group);
}

}  // namespace moesaic::comm
