#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "base/sha256.h"
#include "base/text.h"
#include "checkpoint/block.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/manifest.h"
#include "files/durable.h"
#include "files/format_version.h"
#include "files/hdf5/thread.h"

namespace moesaic::checkpoint {
namespace {

namespace fs = std::filesystem;

/// A box of elements in a larger row-major array.
struct Box {
  files::Extents offset, extent;
};

/// The elements that two boxes share; extents of 0 or less if none.
Box common(const Box& a, const Box& b) {
  Box result = a;
  for (std::size_t i = 0; i < a.offset.size(); ++i) {
    const std::int64_t end = std::min(a.offset[i] + a.extent[i], b.offset[i] + b.extent[i]);
    result.offset[i] = std::max(a.offset[i], b.offset[i]);
    result.extent[i] = end - result.offset[i];
  }
  return result;
}

bool is_empty(const Box& box) {
  return std::any_of(box.extent.begin(), box.extent.end(), [](std::int64_t e) { return e <= 0; });
}

/// Position in `box`'s row-major array of the element at `index` of the whole tensor.
std::size_t position(const Box& box, const files::Extents& index) {
  std::int64_t at = 0;
  for (std::size_t i = 0; i < index.size(); ++i) {
    at = at * box.extent[i] + index[i] - box.offset[i];
  }
  return static_cast<std::size_t>(at);
}

/// Copies the elements of `part`, row by row of its last dim, between the arrays of two boxes.
void copy_box(const Box& part, const Box& from, std::span<const float> source, const Box& to,
              std::span<float> target) {
  const std::size_t dims = part.extent.size();
  const auto row = static_cast<std::size_t>(dims == 0 ? 1 : part.extent.back());
  files::Extents index = part.offset;
  while (true) {
    std::copy_n(source.begin() + static_cast<std::ptrdiff_t>(position(from, index)), row,
                target.begin() + static_cast<std::ptrdiff_t>(position(to, index)));
    std::size_t dim = dims < 2 ? 0 : dims - 1;
    while (dim > 0 && ++index[dim - 1] == part.offset[dim - 1] + part.extent[dim - 1]) {
      index[dim - 1] = part.offset[dim - 1];
      --dim;
    }
    if (dim == 0) {
      return;
    }
  }
}

}  // namespace

struct CheckpointReader::State {
  fs::path path;
  Manifest manifest;
  std::string manifest_sha256;
  std::optional<files::Hdf5File> part;  // the one read last, as are the block and what it holds
  std::string part_name;
  const StoredBlock* block = nullptr;
  BlockContent content;

  // On the HDF5 thread.
  void open_part(const std::string& name);
  void load(const std::string& tensor, const StoredBlock& wanted);
  const std::vector<float>& values();  // of the block

  const StoredTensor& tensor(const std::string& name) const;
  void check_filled(const std::string& name, const Box& wanted, std::int64_t filled) const;
};

void CheckpointReader::State::check_filled(const std::string& name, const Box& wanted,
                                           std::int64_t filled) const {
  if (filled != volume(wanted.extent)) {
    fail_damaged(
        path / kManifestName,
        fmt::format("{}: the blocks hold {} of {} elements of [{}] + [{}]", name, filled,
                    volume(wanted.extent), join(wanted.offset, ", "), join(wanted.extent, ", ")));
  }
}

const std::vector<float>& CheckpointReader::State::values() {
  if (content.values.empty() && is_quantized(content.type)) {
    content.values.resize(static_cast<std::size_t>(content.rows.rows * content.rows.columns));
    content.rows.decode(content.values);
  }
  return content.values;
}

const StoredTensor& CheckpointReader::State::tensor(const std::string& name) const {
  const auto found = manifest.tensors.find(name);
  if (found == manifest.tensors.end()) {
    fail_damaged(path / kManifestName, fmt::format("has no tensor {}", name));
  }
  return found->second;
}

void CheckpointReader::State::open_part(const std::string& name) {
  if (part && part_name == name) {
    return;
  }
  const fs::path file = path / name;
  const std::int64_t due = manifest.parts.at(name).bytes;
  std::error_code error;
  const auto bytes = static_cast<std::int64_t>(fs::file_size(file, error));
  if (error == std::errc::no_such_file_or_directory) {
    throw Error(Exit::kBadData, "the file is missing");
  }
  if (error) {
    files::fail_read(file, error.value());
  }
  if (bytes != due) {
    throw Error(Exit::kBadData,
                fmt::format("the file has {} bytes, its manifest says {}", bytes, due));
  }
  part.reset();
  part = files::Hdf5File::open(file);
  part_name = name;
}

void CheckpointReader::State::load(const std::string& tensor, const StoredBlock& wanted) {
  if (block == &wanted) {
    return;
  }
  block = nullptr;
  try {
    open_part(wanted.part);
    content = read_block(*part, wanted.dataset, wanted.type, wanted.extent, wanted.sha256);
  } catch (const Error& error) {
    if (!files::is_damage(error)) {
      throw;
    }
    fail_damaged(path / wanted.part, fmt::format("{} at [{}] is damaged: {}", tensor,
                                                 join(wanted.offset, ", "), error.what()));
  }
  block = &wanted;
}

CheckpointReader::CheckpointReader(std::unique_ptr<State> state) : state_(std::move(state)) {}
CheckpointReader::CheckpointReader(CheckpointReader&&) noexcept = default;
CheckpointReader& CheckpointReader::operator=(CheckpointReader&&) noexcept = default;
CheckpointReader::~CheckpointReader() = default;

fs::path CheckpointReader::find(const fs::path& path) {
  if (fs::exists(path / kManifestName)) {
    return path;
  }
  const auto complete = complete_checkpoints(path);
  if (complete.empty()) {
    const char* what =
        fs::exists(path) ? "holds no complete checkpoint (no manifest.json)" : "does not exist";
    throw Error(Exit::kNoInput, fmt::format("{}: {}", fs::absolute(path).string(), what));
  }
  return complete.back();
}

CheckpointReader CheckpointReader::open(const fs::path& path) {
  const fs::path folder = find(path);
  return of(folder, files::read_whole(folder / kManifestName));
}

CheckpointReader CheckpointReader::of(const fs::path& folder, const std::string& manifest) {
  auto state = std::make_unique<State>();
  state->path = folder;
  state->manifest = parse_manifest(folder, manifest);
  state->manifest_sha256 = Sha256::of(std::as_bytes(std::span(manifest)));
  return CheckpointReader(std::move(state));
}

const fs::path& CheckpointReader::path() const { return state_->path; }

const Json& CheckpointReader::state() const { return *state_->manifest.state; }
const std::string& CheckpointReader::manifest_sha256() const { return state_->manifest_sha256; }

std::vector<std::string> CheckpointReader::sidecar_files() const {
  std::vector<std::string> names;
  for (const auto& [name, file] : state_->manifest.files) {
    names.push_back(name);
  }
  return names;
}

std::vector<std::string> CheckpointReader::names() const {
  std::vector<std::string> names;
  for (const auto& [name, tensor] : state_->manifest.tensors) {
    names.push_back(name);
  }
  return names;
}

std::optional<files::Extents> CheckpointReader::shape(const std::string& name) const {
  const auto tensor = state_->manifest.tensors.find(name);
  if (tensor == state_->manifest.tensors.end()) {
    return std::nullopt;
  }
  return tensor->second.shape;
}

void CheckpointReader::read(const std::string& name, const files::Extents& offset,
                            const files::Extents& extent, std::span<float> values) {
  const StoredTensor& tensor = state_->tensor(name);
  require(offset.size() == tensor.shape.size() && extent.size() == tensor.shape.size() &&
              static_cast<std::int64_t>(values.size()) == volume(extent),
          fmt::format("checkpoint: a region of {} that does not suit its shape", name));
  const Box wanted{offset, extent};
  if (is_empty(wanted)) {
    return;
  }
  std::int64_t filled = 0;
  files::hdf5_run([&] {
    for (const StoredBlock& block : tensor.blocks) {
      const Box stored{block.offset, block.extent};
      const Box part = common(wanted, stored);
      if (!is_empty(part)) {
        state_->load(name, block);
        copy_box(part, stored, state_->values(), wanted, values);
        filled += volume(part.extent);
      }
    }
  });
  state_->check_filled(name, wanted, filled);
}

DType CheckpointReader::stored_type(const std::string& name) const {
  const StoredTensor& tensor = state_->tensor(name);
  const DType type = tensor.blocks.empty() ? DType::kF32 : tensor.blocks.front().type;
  const bool same = std::all_of(tensor.blocks.begin(), tensor.blocks.end(),
                                [&](const StoredBlock& block) { return block.type == type; });
  return same ? type : DType::kF32;
}

std::optional<DType> CheckpointReader::quantized(const std::string& name) const {
  const DType type = stored_type(name);
  return is_quantized(type) ? std::optional(type) : std::nullopt;
}

QuantizedRows CheckpointReader::read_quantized(const std::string& name,
                                               const files::Extents& offset,
                                               const files::Extents& extent) {
  const auto type = quantized(name);
  require(type && offset.size() == 2 && extent.size() == 2 && offset[1] % kQuantizedBlock == 0,
          fmt::format("checkpoint: {} has no codes from [{}] on", name, join(offset, ", ")));
  const Box wanted{offset, extent};
  QuantizedRows rows = QuantizedRows::zeros(*type, extent[0], extent[1]);
  std::int64_t filled = 0;
  files::hdf5_run([&] {
    for (const StoredBlock& block : state_->tensor(name).blocks) {
      const Box part = common(wanted, {block.offset, block.extent});
      if (!is_empty(part)) {
        state_->load(name, block);
        copy_rows(state_->content.rows, part.offset[0] - block.offset[0],
                  part.offset[1] - block.offset[1], part.extent[0], rows,
                  part.offset[0] - offset[0], part.offset[1] - offset[1]);
        filled += volume(part.extent);
      }
    }
  });
  state_->check_filled(name, wanted, filled);
  return rows;
}

}  // namespace moesaic::checkpoint
