#include "hf/safetensors/header.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <utility>

#include "base/error.h"
#include "base/json.h"
#include "base/text.h"
#include "files/strict_json.h"

namespace moesaic::hf {
namespace {

using Extents = std::vector<std::int64_t>;

constexpr int kMostDepth = 3;  // {"name": {"shape": [

[[noreturn]] void fail(const std::string& what) { throw Error(Exit::kBadData, what); }

Extents numbers(const Json& entry, const std::string& name, const char* field) {
  const Json* const found = entry.find(field);
  if (found == nullptr || !found->is_array()) {
    fail(fmt::format("tensor {} has no list '{}'", name, field));
  }
  Extents values;
  for (const Json& value : *found) {
    constexpr auto kMost = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
    if (!value.is_count() || value.get<std::uint64_t>() > kMost) {
      fail(fmt::format("tensor {}: '{}' holds {}, not a size", name, field, value.dump()));
    }
    values.push_back(value.get<std::int64_t>());
  }
  return values;
}

/// The product of a shape and an element's width, which no file can hold if it overflows.
std::int64_t bytes_due(const std::string& name, const Extents& shape, std::int64_t width) {
  std::int64_t bytes = width;
  for (const std::int64_t extent : shape) {
    if (extent == 0) {
      return 0;
    }
  }
  for (const std::int64_t extent : shape) {
    if (__builtin_mul_overflow(bytes, extent, &bytes)) {
      fail(fmt::format("tensor {} has a shape [{}] that is too large", name, join(shape, ", ")));
    }
  }
  return bytes;
}

SafeTensor tensor_of(const Json& entry, const std::string& name, std::int64_t data_bytes) {
  if (!entry.is_object()) {
    fail(fmt::format("tensor {} is not described by an object", name));
  }
  for (const auto& [field, value] : entry.items()) {
    if (field != "dtype" && field != "shape" && field != "data_offsets") {
      fail(fmt::format("tensor {} has a field '{}' that is not known", name, field));
    }
  }
  const Json* const dtype = entry.find("dtype");
  if (dtype == nullptr || !dtype->is_string()) {
    fail(fmt::format("tensor {} has no 'dtype'", name));
  }
  SafeTensor tensor;
  tensor.dtype = dtype->get<std::string>();
  tensor.shape = numbers(entry, name, "shape");
  const Extents offsets = numbers(entry, name, "data_offsets");
  if (offsets.size() != 2 || offsets[0] > offsets[1] || offsets[1] > data_bytes) {
    fail(fmt::format("tensor {} lies at [{}], but the file has {} bytes of data", name,
                     join(offsets, ", "), data_bytes));
  }
  tensor.begin = offsets[0];
  tensor.end = offsets[1];
  const std::int64_t width = width_of(tensor.dtype);
  const std::int64_t due = bytes_due(name, tensor.shape, std::max<std::int64_t>(width, 1));
  if (width > 0 && due != tensor.end - tensor.begin) {
    fail(fmt::format("tensor {} of {} [{}] takes {} bytes, but has {}", name, tensor.dtype,
                     join(tensor.shape, ", "), due, tensor.end - tensor.begin));
  }
  return tensor;
}

void check_metadata(const Json& metadata) {
  const bool good = metadata.is_object() &&
                    std::all_of(metadata.items().begin(), metadata.items().end(),
                                [](const auto& field) { return field.second.is_string(); });
  if (!good) {
    fail("'__metadata__' is not an object of texts");
  }
}

/// Every byte of the data belongs to one tensor.
void check_places(const std::map<std::string, SafeTensor>& tensors, std::int64_t data_bytes) {
  std::vector<std::pair<const std::string*, const SafeTensor*>> sorted;
  sorted.reserve(tensors.size());
  for (const auto& [name, tensor] : tensors) {
    sorted.emplace_back(&name, &tensor);
  }
  std::stable_sort(sorted.begin(), sorted.end(), [](const auto& a, const auto& b) {
    return std::pair(a.second->begin, a.second->end) < std::pair(b.second->begin, b.second->end);
  });
  std::int64_t end = 0;
  for (const auto& [name, tensor] : sorted) {
    if (tensor->begin != end) {
      fail(fmt::format("tensor {} begins at byte {} of the data, where byte {} is due: tensors {}",
                       *name, tensor->begin, end,
                       tensor->begin < end ? "overlap" : "leave a hole"));
    }
    end = tensor->end;
  }
  if (end != data_bytes) {
    fail(
        fmt::format("its tensors end at byte {} of the data, which has {} bytes", end, data_bytes));
  }
}

}  // namespace

std::map<std::string, SafeTensor> parse_safetensors_header(const std::string& text,
                                                           std::int64_t data_bytes) {
  const Json header = files::parse_strict_json(text, kMostDepth, "its header");
  if (!header.is_object()) {
    fail("its header is not a JSON object");
  }
  std::map<std::string, SafeTensor> tensors;
  for (const auto& [name, entry] : header.items()) {
    if (name == "__metadata__") {
      check_metadata(entry);
    } else {
      tensors[name] = tensor_of(entry, name, data_bytes);
    }
  }
  check_places(tensors, data_bytes);
  return tensors;
}

}  // namespace moesaic::hf
