#include "backend/transfer.h"

#include <span>

#include "base/error.h"

namespace moesaic {
namespace {

template <class T>
Tensor upload_vector(Backend& backend, const std::vector<T>& values, const Shape& shape) {
  Tensor tensor = backend.empty(dtype_of<T>(), shape);
  backend.upload(std::as_bytes(std::span(values)), tensor);
  return tensor;
}

template <class T>
std::vector<T> download_vector(Backend& backend, const Tensor& tensor) {
  require(tensor.dtype() == dtype_of<T>(), "download of another dtype");
  std::vector<T> values(static_cast<std::size_t>(tensor.numel()));
  backend.download(tensor, std::as_writable_bytes(std::span(values)));
  return values;
}

}  // namespace

Tensor to_device(Backend& backend, const std::vector<std::int32_t>& values, const Shape& shape) {
  return upload_vector(backend, values, shape);
}
Tensor to_device(Backend& backend, const std::vector<float>& values, const Shape& shape) {
  return upload_vector(backend, values, shape);
}
std::vector<std::int32_t> to_host_i32(Backend& backend, const Tensor& tensor) {
  return download_vector<std::int32_t>(backend, tensor);
}
std::vector<float> to_host_f32(Backend& backend, const Tensor& tensor) {
  return download_vector<float>(backend, tensor);
}
std::vector<double> to_host_f64(Backend& backend, const Tensor& tensor) {
  return download_vector<double>(backend, tensor);
}
std::size_t HostCopies::add(const Tensor& tensor) {
  tensors_.push_back(tensor);
  return tensors_.size() - 1;
}

void HostCopies::fetch(Backend& backend) {
  std::vector<Download> parts;
  bytes_.reserve(tensors_.size());
  for (const Tensor& tensor : tensors_) {
    bytes_.emplace_back(tensor.bytes());
    parts.push_back({tensor, bytes_.back()});
  }
  if (!parts.empty()) {
    backend.download(parts);
  }
}

std::vector<std::int64_t> offsets_on_host(Backend& backend, const Tensor& offsets,
                                          std::int64_t rows) {
  if (!offsets.defined()) {
    return {0, rows};
  }
  const std::vector<std::int32_t> ends = to_host_i32(backend, offsets);
  return {ends.begin(), ends.end()};
}

}  // namespace moesaic
