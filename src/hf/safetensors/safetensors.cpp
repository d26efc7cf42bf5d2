#include "hf/safetensors/safetensors.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <numeric>
#include <utility>

#include "base/error.h"
#include "base/sha256.h"
#include "base/text.h"
#include "files/durable.h"
#include "hf/safetensors/header.h"

namespace moesaic::hf {
namespace {

namespace fs = std::filesystem;
using Extents = std::vector<std::int64_t>;

constexpr std::int64_t kLengthBytes = 8;
constexpr std::int64_t kMarkBytes = 4096;
constexpr std::int64_t kBlock = std::int64_t{1} << 18;  // elements that are read at once

[[noreturn]] void fail(const fs::path& file, const std::string& what) {
  throw Error(Exit::kBadData, fmt::format("{}: {}", file.string(), what));
}

void read_bytes(const fs::path& file, const files::Descriptor& descriptor, std::int64_t at,
                std::span<std::byte> bytes) {
  const std::ptrdiff_t got = files::read_some_at(descriptor, at, bytes);
  if (got < 0) {
    files::fail_read(file, errno);
  }
  if (got < std::ssize(bytes)) {
    fail(file, fmt::format("ends at byte {}; it was cut while it was open", at + got));
  }
}

std::string mark_of(std::int64_t size, std::span<const std::byte> end) {
  return fmt::format("{} {}", size, Sha256::of(end));
}

/// The stretch of a stored tensor that was read last.
class Window {
 public:
  Window(const fs::path& file, const files::Descriptor& descriptor, DType type, std::int64_t data)
      : file_(file), descriptor_(descriptor), type_(type), data_(data) {}

  /// Values from element `begin` on, at least `count` of them; reads up to `end` if it has to read.
  std::span<const float> at(std::int64_t begin, std::int64_t count, std::int64_t end) {
    if (begin < begin_ || begin + count > begin_ + static_cast<std::int64_t>(values_.size())) {
      begin_ = begin;
      const auto size = static_cast<std::size_t>(end - begin);
      const auto width = size_of(type_);
      bytes_.resize(size * width);
      values_.resize(size);
      read_bytes(file_, descriptor_, data_ + begin * static_cast<std::int64_t>(width), bytes_);
      decode(type_, bytes_, values_);
    }
    return std::span<const float>(values_).subspan(static_cast<std::size_t>(begin - begin_));
  }

 private:
  const fs::path& file_;
  const files::Descriptor& descriptor_;
  DType type_;
  std::int64_t data_, begin_ = 0;
  std::vector<std::byte> bytes_;
  std::vector<float> values_;
};

std::int64_t volume(const Extents& extent) {
  return std::accumulate(extent.begin(), extent.end(), std::int64_t{1}, std::multiplies<>());
}

/// Walks over rows of elements in the order in which they lie in the file.
struct InFileOrder {
  Extents extent, from, to;  // each dim's elements and their distance in the file and in the values
  std::int64_t source, target = 0;  // where the current row begins in both

  explicit InFileOrder(const Strided& elements) : source(elements.first), first_(elements.first) {
    std::vector<std::size_t> order(elements.extent.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
      return elements.strides[a] > elements.strides[b];
    });
    const Extents distance = row_major(elements.extent);
    for (const std::size_t dim : order) {
      extent.push_back(elements.extent[dim]);
      from.push_back(elements.strides[dim]);
      to.push_back(distance[dim]);
    }
    if (order.empty()) {  // a scalar is a row of one
      extent = from = to = {1};
    }
    index_.assign(extent.size(), 0);
  }

  std::int64_t last() const {
    std::int64_t element = first_;
    for (std::size_t i = 0; i < extent.size(); ++i) {
      element += (extent[i] - 1) * from[i];
    }
    return element;
  }
  /// False behind the last row.
  bool next_row() {
    for (std::size_t dim = extent.size() - 1; dim-- > 0;) {
      source += from[dim];
      target += to[dim];
      if (++index_[dim] < extent[dim]) {
        return true;
      }
      source -= extent[dim] * from[dim];
      target -= extent[dim] * to[dim];
      index_[dim] = 0;
    }
    return false;
  }

 private:
  std::int64_t first_;
  Extents index_;
};

}  // namespace

Extents row_major(const Extents& shape) {
  Extents strides(shape.size(), 1);
  for (std::size_t i = shape.size(); i-- > 1;) {
    strides[i - 1] = strides[i] * shape[i];
  }
  return strides;
}

std::string index_text(std::int64_t element, const Extents& shape) {
  Extents index = row_major(shape);
  for (std::int64_t& stride : index) {
    const std::int64_t at = element / stride;
    element -= at * stride;
    stride = at;
  }
  return join(index, ", ");
}

void require_part(const std::string& name, const Extents& shape, const Extents& offset,
                  const Extents& extent, std::size_t values) {
  bool fits = offset.size() == shape.size() && extent.size() == shape.size();
  for (std::size_t i = 0; fits && i < shape.size(); ++i) {
    fits = offset[i] >= 0 && extent[i] >= 0 && offset[i] <= shape[i] &&
           extent[i] <= shape[i] - offset[i];
  }
  require(fits && volume(extent) == static_cast<std::int64_t>(values),
          fmt::format("{}: a part that does not suit its shape", name));
}

SafetensorsFile SafetensorsFile::open(const fs::path& path) {
  SafetensorsFile file;
  file.path_ = path;
  file.descriptor_ = files::Descriptor(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  struct stat status {};
  if (file.descriptor_.number() < 0 || ::fstat(file.descriptor_.number(), &status) != 0) {
    files::fail_read(path, errno);
  }
  if (!S_ISREG(status.st_mode)) {
    throw Error(Exit::kNoInput, fmt::format("{}: is not a file", fs::absolute(path).string()));
  }
  const std::int64_t size = file.size_ = status.st_size;
  if (size < kLengthBytes) {
    fail(path, fmt::format("has {} bytes, too few for a safetensors file", size));
  }
  std::uint64_t length = 0;
  read_bytes(path, file.descriptor_, 0, std::as_writable_bytes(std::span(&length, 1)));
  const auto most = static_cast<std::uint64_t>(std::min(kMostHeaderBytes, size - kLengthBytes));
  if (length > most) {
    fail(path, fmt::format("says that its header has {} bytes, but it can have {} at most: not a "
                           "safetensors file, or cut",
                           length, most));
  }
  std::string header(static_cast<std::size_t>(length), ' ');
  read_bytes(path, file.descriptor_, kLengthBytes, std::as_writable_bytes(std::span(header)));
  file.data_ = kLengthBytes + static_cast<std::int64_t>(length);
  try {
    file.tensors_ = parse_safetensors_header(header, size - file.data_);
  } catch (const Error& error) {
    fail(path, error.what());
  }
  return file;
}

std::string SafetensorsFile::mark() const {
  std::vector<std::byte> end(static_cast<std::size_t>(std::min(size_, kMarkBytes)));
  read_bytes(path_, descriptor_, size_ - std::ssize(end), end);
  return mark_of(size_, end);
}

std::string weights_mark(const fs::path& file) {
  const std::string end = files::read_end(file, kMarkBytes);
  return mark_of(static_cast<std::int64_t>(fs::file_size(file)), std::as_bytes(std::span(end)));
}

void SafetensorsFile::read(const std::string& name, const Extents& offset, const Extents& extent,
                           std::span<float> values) const {
  const SafeTensor& tensor = tensors_.at(name);
  require_part(name, tensor.shape, offset, extent, values.size());
  Strided elements{0, row_major(tensor.shape), extent};
  elements.first =
      std::inner_product(offset.begin(), offset.end(), elements.strides.begin(), std::int64_t{0});
  read(name, elements, values);
}

void SafetensorsFile::read(const std::string& name, const Strided& elements,
                           std::span<float> values) const {
  const SafeTensor& tensor = tensors_.at(name);
  const auto type = stored_dtype(tensor.dtype);
  if (!type) {
    fail(path_, fmt::format("tensor {} holds {}, which is not supported (F64, F32, F16, BF16 and "
                            "F8_E4M3 are)",
                            name, tensor.dtype));
  }
  if (values.empty()) {
    return;
  }
  InFileOrder order(elements);
  require(elements.first >= 0 && order.last() < volume(tensor.shape),
          fmt::format("{}: elements beyond its end", name));
  // What lies between is read, too, where that is little; else row by row.
  const std::int64_t stretch = order.last() + 1 - elements.first;
  const std::int64_t ahead = static_cast<std::int64_t>(values.size()) >= stretch / 4 ? kBlock : 0;
  const std::int64_t stride = order.from.back(), row = order.extent.back();
  const std::int64_t piece = (kBlock - 1) / stride + 1;
  Window window(path_, descriptor_, *type, data_ + tensor.begin);
  do {
    for (std::int64_t done = 0; done < row; done += piece) {
      const std::int64_t count = std::min(piece, row - done), span = (count - 1) * stride + 1;
      const std::int64_t begin = order.source + done * stride;
      const std::int64_t end = std::min(order.last() + 1, begin + std::max(span, ahead));
      const std::span<const float> found = window.at(begin, span, end);
      for (std::int64_t i = 0; i < count; ++i) {
        const float value = found[static_cast<std::size_t>(i * stride)];
        if (!std::isfinite(value)) {
          fail(path_, fmt::format("tensor {} holds {} at [{}]", name, value,
                                  index_text(begin + i * stride, tensor.shape)));
        }
        values[static_cast<std::size_t>(order.target + (done + i) * order.to.back())] = value;
      }
    }
  } while (order.next_row());
}

}  // namespace moesaic::hf
