#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <span>
#include <string>

#include "base/error.h"
#include "tensor/bf16.h"
#include "tensor/dtype.h"

namespace moesaic {

template <class T>
constexpr DType dtype_of();
template <>
constexpr DType dtype_of<float>() {
  return DType::kF32;
}
template <>
constexpr DType dtype_of<BFloat16>() {
  return DType::kBf16;
}
template <>
constexpr DType dtype_of<std::int32_t>() {
  return DType::kI32;
}
template <>
constexpr DType dtype_of<double>() {
  return DType::kF64;
}

/// Extents of up to four dims, outermost first.
class Shape {
 public:
  Shape() = default;
  Shape(std::initializer_list<std::int64_t> dims);

  int rank() const { return rank_; }
  std::int64_t operator[](int i) const { return dims_.at(static_cast<std::size_t>(i)); }
  std::int64_t numel() const;
  void set(int i, std::int64_t extent) { dims_.at(static_cast<std::size_t>(i)) = extent; }
  bool operator==(const Shape&) const = default;
  std::string text() const;  // (2, 3)

 private:
  std::array<std::int64_t, 4> dims_{};
  int rank_ = 0;
};

enum class Location : std::uint8_t { kHost, kDevice };

/// A handle to a row-major, contiguous array: copies share the storage, and a const handle may
/// still write to it (as with std::span).
class Tensor {
 public:
  Tensor() = default;
  Tensor(std::shared_ptr<void> storage, std::byte* data, DType dtype, Shape shape,
         Location location)
      : storage_(std::move(storage)),
        data_(data),
        dtype_(dtype),
        shape_(shape),
        location_(location) {}

  DType dtype() const { return dtype_; }
  const Shape& shape() const { return shape_; }
  std::int64_t dim(int i) const { return shape_[i]; }
  std::int64_t numel() const { return shape_.numel(); }
  std::size_t bytes() const { return static_cast<std::size_t>(numel()) * size_of(dtype_); }
  bool defined() const { return storage_ != nullptr; }
  Location location() const { return location_; }
  std::byte* data() const { return data_; }

  /// The elements on the host. Never converts: the dtype must be T's.
  template <class T>
  std::span<T> as() const {
    require(dtype_ == dtype_of<T>(), "tensor holds another dtype");
    require(location_ == Location::kHost, "tensor is not on the host");
    return {reinterpret_cast<T*>(data_), static_cast<std::size_t>(numel())};
  }

  /// Rows [begin, begin + count) of the first dim; shares the storage.
  Tensor rows(std::int64_t begin, std::int64_t count) const;
  /// The same elements under another shape; shares the storage.
  Tensor reshaped(const Shape& shape) const;

 private:
  std::shared_ptr<void> storage_;
  std::byte* data_ = nullptr;
  DType dtype_ = DType::kF32;
  Shape shape_;
  Location location_ = Location::kHost;
};

}  // namespace moesaic
