#include "tensor/tensor.h"

#include <fmt/format.h>

namespace moesaic {

Shape::Shape(std::initializer_list<std::int64_t> dims) : rank_(static_cast<int>(dims.size())) {
  require(dims.size() <= 4, "a tensor has at most four dims");
  std::size_t i = 0;
  for (const std::int64_t extent : dims) {
    require(extent >= 0, "a dim cannot be negative");
    dims_.at(i++) = extent;
  }
}

std::int64_t Shape::numel() const {
  std::int64_t n = 1;
  for (int i = 0; i < rank_; ++i) {
    n *= (*this)[i];
  }
  return n;
}

std::string Shape::text() const {
  std::string text = "(";
  for (int i = 0; i < rank_; ++i) {
    text += fmt::format("{}{}", i == 0 ? "" : ", ", (*this)[i]);
  }
  return text + ")";
}

Tensor Tensor::rows(std::int64_t begin, std::int64_t count) const {
  require(shape_.rank() >= 1 && begin >= 0 && count >= 0 && begin + count <= dim(0),
          "rows outside of the tensor");
  Shape shape;
  switch (shape_.rank()) {
    case 1:
      shape = {count};
      break;
    case 2:
      shape = {count, dim(1)};
      break;
    case 3:
      shape = {count, dim(1), dim(2)};
      break;
    default:
      shape = {count, dim(1), dim(2), dim(3)};
  }
  const std::size_t row_bytes = dim(0) == 0 ? 0 : bytes() / static_cast<std::size_t>(dim(0));
  return {storage_, data_ + static_cast<std::size_t>(begin) * row_bytes, dtype_, shape, location_};
}

Tensor Tensor::reshaped(const Shape& shape) const {
  if (shape.numel() != numel()) {
    throw Error(Exit::kInternal, fmt::format("cannot view {} as {}", shape_.text(), shape.text()));
  }
  return {storage_, data_, dtype_, shape, location_};
}

}  // namespace moesaic
