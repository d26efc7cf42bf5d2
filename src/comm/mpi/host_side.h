#pragma once

#include "backend/backend.h"

namespace moesaic::comm {

/// Where MPI reads and writes the tensors of a backend: in their place, if that is on the host, or
/// in copies there.
class HostSide {
 public:
  enum class Copies { kNone, kAll };
  HostSide(Backend& backend, Copies copies) : backend_(backend), copies_(copies == Copies::kAll) {}

  /// A tensor of the backend, for what arrives.
  Tensor empty(DType dtype, const Shape& shape) { return backend_.empty(dtype, shape); }
  /// The values of a tensor.
  Tensor values_of(const Tensor& tensor) const;
  /// Memory for values that `land` will bring to the tensor.
  Tensor place_for(const Tensor& tensor) const;
  /// Memory of the host, whatever the backend's is.
  static Tensor host_only(DType dtype, const Shape& shape);
  /// The tensor gets the elements [begin, begin + count) of what is its place here.
  void land(const Tensor& place, const Tensor& tensor, std::int64_t begin,
            std::int64_t count) const;
  void land(const Tensor& place, const Tensor& tensor) const {
    land(place, tensor, 0, tensor.numel());
  }

 private:
  Backend& backend_;
  const bool copies_;
};

}  // namespace moesaic::comm
