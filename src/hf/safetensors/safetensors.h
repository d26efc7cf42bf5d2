#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "files/descriptor.h"
#include "hf/safetensors/stored_dtype.h"

// The safetensors format: 8 bytes with the length N of the header (little-endian), N bytes of JSON
// {"NAME": {"dtype", "shape", "data_offsets": [begin, end]}, ..., "__metadata__": {...}}, then the
// tensors' bytes, row-major, without holes (github.com/huggingface/safetensors).
namespace moesaic::hf {

struct SafeTensor {
  std::string dtype;  // as the file names it; it may be one that cannot be read
  std::vector<std::int64_t> shape;
  std::int64_t begin = 0, end = 0;  // bytes, counted from the end of the header
};

/// Elements of a tensor at regular places: values (extent), row-major, of which the one at (i, j,
/// ...) is element first + i strides[0] + j strides[1] + ... of the stored tensor.
struct Strided {
  std::int64_t first = 0;
  std::vector<std::int64_t> strides, extent;
};

/// A file open for reading. Any part can be read; memory is that of the header and of one block.
class SafetensorsFile {
 public:
  /// Reads and checks the header. kNoInput, or kBadData that names what is wrong.
  static SafetensorsFile open(const std::filesystem::path& file);

  const std::filesystem::path& path() const { return path_; }
  const std::map<std::string, SafeTensor>& tensors() const { return tensors_; }
  std::string mark() const;  // as weights_mark

  /// Elements [offset, offset + extent) as floats. kBadData if the format cannot be read, or if a
  /// value is not finite as a float: names tensor and index.
  void read(const std::string& name, const std::vector<std::int64_t>& offset,
            const std::vector<std::int64_t>& extent, std::span<float> values) const;
  /// Reads elements that lie apart.
  void read(const std::string& name, const Strided& elements, std::span<float> values) const;

 private:
  std::filesystem::path path_;
  files::Descriptor descriptor_;
  std::int64_t size_ = 0;  // bytes of the file
  std::int64_t data_ = 0;  // where the tensors begin, in bytes
  std::map<std::string, SafeTensor> tensors_;
};

/// What stands for the content of a weights file, as such files have no sums: its length and the
/// SHA-256 of its last 4 KiB (the header comes first). Throws what fail_read does.
std::string weights_mark(const std::filesystem::path& file);

struct TensorToStore {
  std::string name;
  DType type = DType::kF32;
  std::vector<std::int64_t> shape;
};

/// Bytes of a tensor's values in a file.
std::int64_t bytes_of(const TensorToStore& tensor);

/// Writes a file under a temporary name; close() makes it durable and gives it its own. Without
/// close() nothing remains.
class SafetensorsWriter {
 public:
  SafetensorsWriter(const std::filesystem::path& file, const std::vector<TensorToStore>& tensors);
  SafetensorsWriter(const SafetensorsWriter&) = delete;
  SafetensorsWriter& operator=(const SafetensorsWriter&) = delete;
  ~SafetensorsWriter();

  /// The next values of the tensors in their order; no call goes beyond the end of one. kBadNumbers
  /// if a value is not finite in the tensor's format: names tensor and index.
  void write(std::span<const float> values);
  void close();

 private:
  void write_bytes(std::span<const std::byte> bytes);

  std::filesystem::path path_, temporary_;
  files::Descriptor descriptor_;
  std::vector<TensorToStore> tensors_;
  std::size_t current_ = 0;   // of tensors_
  std::int64_t written_ = 0;  // elements of it
};

/// Throws kInternal unless `elements` of a tensor of this shape are a part of it.
void require_part(const std::string& name, const std::vector<std::int64_t>& shape,
                  const std::vector<std::int64_t>& offset, const std::vector<std::int64_t>& extent,
                  std::size_t values);
/// Row-major distances between neighbours of each dim.
std::vector<std::int64_t> row_major(const std::vector<std::int64_t>& shape);
/// "3, 5": the place of an element, counted row-major.
std::string index_text(std::int64_t element, const std::vector<std::int64_t>& shape);

}  // namespace moesaic::hf
