#pragma once

#include <cstdint>
#include <span>

#include "comm/communicator.h"
#include "tensor/tensor.h"

namespace moesaic::comm {

/// Bytes of tensors that a rank of a group of n sends, where a sum goes around a ring: 2 (n - 1) /
/// n of it, (n - 1) / n to gather or to get the sum of a share.
class SentBytes {
 public:
  explicit SentBytes(const Communicator& group) : group_(group) {}

  void sum(const Tensor& whole) { total_ += 2.0 * ring() * bytes(whole); }
  void share(const Tensor& whole) { total_ += ring() * bytes(whole); }
  void message(const Tensor& tensor) { total_ += bytes(tensor); }
  /// Rows of `send` (rows, D), so many to each rank.
  void rows(const Tensor& send, std::span<const std::int64_t> send_rows) {
    std::int64_t leaving = 0;
    for (int r = 0; r < group_.size(); ++r) {
      leaving += r == group_.rank() ? 0 : send_rows[static_cast<std::size_t>(r)];
    }
    total_ +=
        static_cast<double>(leaving * send.dim(1)) * static_cast<double>(size_of(send.dtype()));
  }
  double total() const { return total_; }

 private:
  static double bytes(const Tensor& tensor) { return static_cast<double>(tensor.bytes()); }
  double ring() const {
    return static_cast<double>(group_.size() - 1) / static_cast<double>(group_.size());
  }

  const Communicator& group_;
  double total_ = 0.0;
};

}  // namespace moesaic::comm
