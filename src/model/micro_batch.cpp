#include "model/micro_batch.h"

#include <algorithm>
#include <span>

namespace moesaic::model {
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

std::int64_t MicroBatch::counted() const {
  return std::count_if(target.begin(), target.end(), [](std::int32_t t) { return t >= 0; });
}

void PageRuns::add(std::int64_t rows, std::int64_t first_position,
                   std::span<const std::int32_t> sequence_pages) {
  offsets.push_back(offsets.back() + rows);
  position.push_back(first_position);
  pages.insert(pages.end(), sequence_pages.begin(), sequence_pages.end());
  page_offsets.push_back(std::ssize(pages));
}

std::vector<std::int32_t> local_ids(const std::vector<std::int32_t>& ids, Slice share) {
  std::vector<std::int32_t> local(ids.size());
  for (std::size_t i = 0; i < ids.size(); ++i) {
    const bool here = ids[i] >= share.begin && ids[i] < share.end();
    local[i] =
        ids[i] < 0 ? -1 : static_cast<std::int32_t>(here ? ids[i] - share.begin : share.count);
  }
  return local;
}

MicroBatch text_batch(std::span<const std::int32_t> tokens, std::int64_t rows) {
  MicroBatch batch;
  const auto count = static_cast<std::size_t>(rows);
  for (std::size_t t = 0; t < count; ++t) {
    batch.token.push_back(tokens[t]);
    batch.target.push_back(t + 1 < tokens.size() ? tokens[t + 1] : -1);
    batch.position.push_back(static_cast<std::int32_t>(t));
  }
  batch.first_key.resize(count);
  batch.task.resize(count);
  return batch;
}

DeviceBatch upload(Backend& backend, const MicroBatch& batch) {
  const Shape shape{batch.size()};
  return {.position = to_device(backend, batch.position, shape),
          .first_key = to_device(backend, batch.first_key, shape)};
}

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

}  // namespace moesaic::model
