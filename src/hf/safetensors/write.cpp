#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>

#include "base/error.h"
#include "base/json.h"
#include "files/durable.h"
#include "hf/safetensors/header.h"
#include "hf/safetensors/safetensors.h"

namespace moesaic::hf {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kBlock = std::size_t{1} << 18U;  // elements that are converted at once
constexpr std::size_t kAligned = 8;                    // bytes, of where the data begins

std::int64_t elements_of(const TensorToStore& tensor) {
  std::int64_t elements = 1;
  for (const std::int64_t extent : tensor.shape) {
    require(extent >= 0 && !__builtin_mul_overflow(elements, extent, &elements),
            tensor.name + ": not a shape");
  }
  return elements;
}

std::string header_of(const std::vector<TensorToStore>& tensors) {
  Json header{{"__metadata__", {{"format", "pt"}}}};  // transformers asks for this one
  std::int64_t at = 0;
  for (const TensorToStore& tensor : tensors) {
    const std::int64_t end = at + bytes_of(tensor);
    require(!header.contains(tensor.name), tensor.name + ": stored twice");
    header[tensor.name] = {{"dtype", std::string(stored_name(tensor.type))},
                           {"shape", tensor.shape},
                           {"data_offsets", {at, end}}};
    at = end;
  }
  std::string text = header.dump();
  text.resize((text.size() + kAligned - 1) / kAligned * kAligned, ' ');
  require(static_cast<std::int64_t>(text.size()) <= kMostHeaderBytes,
          "safetensors: too many tensors for one file");
  return text;
}

}  // namespace

std::int64_t bytes_of(const TensorToStore& tensor) {
  return elements_of(tensor) * static_cast<std::int64_t>(size_of(tensor.type));
}

SafetensorsWriter::SafetensorsWriter(const fs::path& file,
                                     const std::vector<TensorToStore>& tensors)
    : path_(file), temporary_(file), tensors_(tensors) {
  temporary_ += ".tmp";
  const std::string header = header_of(tensors_);
  descriptor_ =
      files::Descriptor(::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666));
  if (descriptor_.number() < 0) {
    files::fail_write(temporary_, "create", errno);
  }
  const std::uint64_t length = header.size();
  write_bytes(std::as_bytes(std::span(&length, 1)));
  write_bytes(std::as_bytes(std::span(header)));
}

SafetensorsWriter::~SafetensorsWriter() {
  if (descriptor_.number() >= 0) {
    std::error_code ignored;
    fs::remove(temporary_, ignored);
  }
}

void SafetensorsWriter::write_bytes(std::span<const std::byte> bytes) {
  if (files::write_all(descriptor_, bytes) < 0) {
    files::fail_write(path_, "write", errno);
  }
}

void SafetensorsWriter::write(std::span<const float> values) {
  while (current_ < tensors_.size() && written_ == elements_of(tensors_[current_])) {
    ++current_;
    written_ = 0;
  }
  if (values.empty()) {
    return;
  }
  require(current_ < tensors_.size() && written_ + static_cast<std::int64_t>(values.size()) <=
                                            elements_of(tensors_[current_]),
          "safetensors: more values than the tensor has");
  const TensorToStore& tensor = tensors_[current_];
  const auto width = size_of(tensor.type);
  std::vector<std::byte> bytes;
  std::vector<float> stored;
  while (!values.empty()) {
    const std::span<const float> block = values.first(std::min(kBlock, values.size()));
    bytes.resize(block.size() * width);
    stored.resize(block.size());
    encode(tensor.type, block, bytes);
    decode(tensor.type, bytes, stored);
    const auto bad =
        std::find_if(stored.begin(), stored.end(), [](float v) { return !std::isfinite(v); });
    if (bad != stored.end()) {
      const auto at = bad - stored.begin();
      throw Error(Exit::kBadNumbers,
                  fmt::format("{}: tensor {} has {} at [{}], which {} cannot hold", path_.string(),
                              tensor.name, block[static_cast<std::size_t>(at)],
                              index_text(written_ + at, tensor.shape), stored_name(tensor.type)));
    }
    write_bytes(bytes);
    written_ += static_cast<std::int64_t>(block.size());
    values = values.subspan(block.size());
  }
}

void SafetensorsWriter::close() {
  write({});
  require(current_ == tensors_.size(), "safetensors: a file is closed before its last value");
  if (descriptor_.close() != 0) {
    const int error = errno;
    std::error_code ignored;
    fs::remove(temporary_, ignored);
    files::fail_write(path_, "write", error);
  }
  files::publish(temporary_, path_);
}

}  // namespace moesaic::hf
