#include "comm/mpi/host_side.h"

#include <new>

namespace moesaic::comm {
namespace {

constexpr std::align_val_t kBorder{64};

std::span<std::byte> bytes_of(const Tensor& tensor) { return {tensor.data(), tensor.bytes()}; }

// Elements of a tensor of any shape.
Tensor part(const Tensor& tensor, std::int64_t begin, std::int64_t count) {
  return tensor.reshaped({tensor.numel()}).rows(begin, count);
}

}  // namespace

Tensor HostSide::host_only(DType dtype, const Shape& shape) {
  const auto bytes = static_cast<std::size_t>(shape.numel()) * size_of(dtype);
  std::shared_ptr<void> block(::operator new(bytes, kBorder),
                              [](void* place) { ::operator delete(place, kBorder); });
  auto* const data = static_cast<std::byte*>(block.get());
  return {std::move(block), data, dtype, shape, Location::kHost};
}

Tensor HostSide::values_of(const Tensor& tensor) const {
  Tensor values = place_for(tensor);
  if (copies_) {
    backend_.download(tensor, bytes_of(values));
  }
  return values;
}

Tensor HostSide::place_for(const Tensor& tensor) const {
  return copies_ ? host_only(tensor.dtype(), tensor.shape()) : tensor;
}

void HostSide::land(const Tensor& place, const Tensor& tensor, std::int64_t begin,
                    std::int64_t count) const {
  if (copies_ && count > 0) {
    backend_.upload(bytes_of(part(place, begin, count)), part(tensor, begin, count));
  }
}

}  // namespace moesaic::comm
