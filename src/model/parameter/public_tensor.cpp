#include "model/parameter/public_tensor.h"

#include <charconv>

namespace moesaic::model {
namespace {

Shape with_dim(const Shape& shape, int dim, std::int64_t extent) {
  Shape changed = shape;
  changed.set(dim, extent);
  return changed;
}

}  // namespace

Shape PublicTensor::slice_shape() const { return with_dim(shape, dim, slice.count); }

std::vector<std::int64_t> PublicTensor::offset() const {
  std::vector<std::int64_t> offset(static_cast<std::size_t>(shape.rank()), 0);
  offset[static_cast<std::size_t>(dim)] = slice.begin;
  return offset;
}

std::vector<std::int64_t> PublicTensor::extent() const {
  const Shape own = slice_shape();
  std::vector<std::int64_t> extent(static_cast<std::size_t>(own.rank()));
  for (int i = 0; i < own.rank(); ++i) {
    extent[static_cast<std::size_t>(i)] = own[i];
  }
  return extent;
}

std::int64_t PublicTensor::whole_index(std::int64_t i) const {
  std::int64_t inner = 1;  // elements of one index of the split dim
  for (int d = dim + 1; d < shape.rank(); ++d) {
    inner *= shape[d];
  }
  const std::int64_t outer = i / (slice.count * inner);
  const std::int64_t within = i % (slice.count * inner);
  return outer * shape[dim] * inner + slice.begin * inner + within;
}

std::int64_t layer_of(std::string_view name) {
  constexpr std::string_view kBlocks = "model.layers.";
  std::int64_t layer = -1;
  if (name.starts_with(kBlocks)) {
    std::from_chars(name.data() + kBlocks.size(), name.data() + name.size(), layer);
  }
  return layer;
}

PublicTensor whole_tensor(const std::string& name, const Shape& shape) {
  return split_tensor(name, shape, 0, {0, shape[0]});
}

PublicTensor split_tensor(const std::string& name, const Shape& shape, int dim, Slice slice) {
  return {.name = name, .shape = shape, .dim = dim, .slice = slice};
}

PublicTensor copied_tensor(const std::string& name, const Shape& shape,
                           const Placement& placement) {
  PublicTensor tensor = whole_tensor(name, shape);
  tensor.copies = placement.tp;
  tensor.copy = placement.tp_rank;
  return tensor;
}

}  // namespace moesaic::model
