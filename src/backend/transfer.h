#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "backend/backend.h"

namespace moesaic {

/// A host vector as a tensor of the backend.
Tensor to_device(Backend& backend, const std::vector<std::int32_t>& values, const Shape& shape);
Tensor to_device(Backend& backend, const std::vector<float>& values, const Shape& shape);
std::vector<std::int32_t> to_host_i32(Backend& backend, const Tensor& tensor);
std::vector<float> to_host_f32(Backend& backend, const Tensor& tensor);
std::vector<double> to_host_f64(Backend& backend, const Tensor& tensor);
/// The elements of some tensors, which all come with one wait.
class HostCopies {
 public:
  /// Returns which one it will be.
  std::size_t add(const Tensor& tensor);
  void fetch(Backend& backend);
  template <class T>
  std::span<const T> at(std::size_t i) const {
    require(tensors_[i].dtype() == dtype_of<T>(), "a copy of another dtype");
    return {reinterpret_cast<const T*>(bytes_[i].data()), bytes_[i].size() / sizeof(T)};
  }

 private:
  std::vector<Tensor> tensors_;
  std::vector<std::vector<std::byte>> bytes_;
};

/// The offsets of groups among `rows` rows; undefined: of one group that has them all.
std::vector<std::int64_t> offsets_on_host(Backend& backend, const Tensor& offsets,
                                          std::int64_t rows);

}  // namespace moesaic
