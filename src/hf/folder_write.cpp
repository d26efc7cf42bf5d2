#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <map>
#include <numeric>
#include <utility>

#include "base/error.h"
#include "base/json.h"
#include "files/durable.h"
#include "hf/folder.h"
#include "hf/safetensors/safetensors.h"
#include "hf/tensor_names.h"
#include "hf/tensors.h"
#include "hf/unfinished.h"

namespace moesaic::hf {
namespace {

namespace fs = std::filesystem;
using Extents = std::vector<std::int64_t>;

constexpr std::int64_t kBlock = std::int64_t{1} << 24;  // elements that are copied at once

/// One stored tensor and those of ours that it holds, in the order in which they lie in it.
struct Stored {
  TensorToStore tensor;
  std::vector<const HfTensor*> parts;
};
using Shard = std::vector<const Stored*>;

std::int64_t volume(const Extents& extent) {
  return std::accumulate(extent.begin(), extent.end(), std::int64_t{1}, std::multiplies<>());
}

std::vector<Stored> stored_tensors(const std::vector<HfTensor>& tensors, DType type) {
  std::vector<Stored> all;
  std::map<std::string, std::size_t> places;
  for (const HfTensor& tensor : tensors) {
    const HfView& view = tensor.view;
    const auto [place, is_new] = places.try_emplace(view.tensor, all.size());
    if (is_new) {
      all.push_back(
          {{view.tensor, is_always_f32(tensor.name) ? DType::kF32 : type, view.shape}, {}});
    }
    all[place->second].parts.push_back(&tensor);
  }
  for (Stored& one : all) {
    std::stable_sort(one.parts.begin(), one.parts.end(),
                     [](const auto* a, const auto* b) { return a->view.first < b->view.first; });
  }
  return all;
}

/// Consecutive tensors of at most `most` bytes, or one that is larger; the wide ones of each shard
/// first, so that all are aligned.
std::vector<Shard> shards_of(const std::vector<Stored>& tensors, std::int64_t most) {
  std::vector<Shard> shards;
  std::int64_t bytes = 0;
  for (const Stored& one : tensors) {
    const std::int64_t more = bytes_of(one.tensor);
    if (shards.empty() || more > most - bytes) {
      shards.emplace_back();
      bytes = 0;
    }
    shards.back().push_back(&one);
    bytes += more;
  }
  for (Shard& shard : shards) {
    std::stable_sort(shard.begin(), shard.end(), [](const auto* a, const auto* b) {
      return size_of(a->tensor.type) > size_of(b->tensor.type);
    });
  }
  return shards;
}

std::string shard_name(std::size_t number, std::size_t count) {
  return count == 1 ? kOneFile : fmt::format("model-{:05}-of-{:05}.safetensors", number + 1, count);
}

/// A tensor that is stored as we have it, by blocks of rows.
void write_whole_tensor(const HfTensor& tensor, const ReadPart& read, SafetensorsWriter& writer) {
  Extents offset(tensor.shape.size(), 0), extent = tensor.shape;
  const std::int64_t rows = tensor.shape[0];
  const std::int64_t row = volume(tensor.shape) / rows;
  const std::int64_t step = std::max<std::int64_t>(1, kBlock / row);
  std::vector<float> values;
  for (offset[0] = 0; offset[0] < rows; offset[0] += step) {
    extent[0] = std::min(step, rows - offset[0]);
    values.resize(static_cast<std::size_t>(extent[0] * row));
    read(tensor.name, offset, extent, values);
    writer.write(values);
  }
}

/// Puts one of our tensors to its places in the slice of one expert.
void scatter(const HfTensor& tensor, const ReadPart& read, std::int64_t slice_begin,
             std::span<float> slice) {
  std::vector<float> values(static_cast<std::size_t>(volume(tensor.shape)));
  read(tensor.name, Extents(tensor.shape.size(), 0), tensor.shape, values);
  const std::int64_t columns = tensor.shape.size() == 1 ? 1 : tensor.shape[1];
  const std::int64_t column_stride = tensor.shape.size() == 1 ? 0 : tensor.view.strides[1];
  const std::int64_t first = tensor.view.first - slice_begin;
  for (std::int64_t row = 0; row < tensor.shape[0]; ++row) {
    for (std::int64_t column = 0; column < columns; ++column) {
      const std::int64_t at = first + row * tensor.view.strides[0] + column * column_stride;
      slice[static_cast<std::size_t>(at)] =
          values[static_cast<std::size_t>(row * columns + column)];
    }
  }
}

/// A tensor that holds those of all experts of a layer, expert by expert.
void write_stacked(const Stored& stored, const ReadPart& read, SafetensorsWriter& writer) {
  const std::int64_t size = volume(stored.tensor.shape) / stored.tensor.shape[0];
  std::vector<float> slice(static_cast<std::size_t>(size));
  auto part = stored.parts.begin();
  for (std::int64_t begin = 0; begin < volume(stored.tensor.shape); begin += size) {
    for (; part != stored.parts.end() && (*part)->view.first < begin + size; ++part) {
      scatter(**part, read, begin, slice);
    }
    writer.write(slice);
  }
}

void write_shard(const fs::path& file, const Shard& shard, const ReadPart& read) {
  std::vector<TensorToStore> tensors;
  for (const Stored* one : shard) {
    tensors.push_back(one->tensor);
  }
  SafetensorsWriter writer(file, tensors);
  for (const Stored* one : shard) {
    if (one->parts[0]->stacked()) {
      write_stacked(*one, read, writer);
    } else {
      write_whole_tensor(*one->parts[0], read, writer);
    }
  }
  writer.close();
}

void write_index(const fs::path& folder, const std::vector<Shard>& shards) {
  Json files = Json::object();
  std::int64_t bytes = 0;
  for (std::size_t i = 0; i < shards.size(); ++i) {
    for (const Stored* one : shards[i]) {
      files[one->tensor.name] = shard_name(i, shards.size());
      bytes += bytes_of(one->tensor);
    }
  }
  Json index{{"metadata", {{"total_size", bytes}}}};
  index["weight_map"] = std::move(files);
  files::write_whole(folder / kIndexName, index.dump(2) + "\n");
}

void copy_beside(const fs::path& source, const fs::path& folder) {
  const fs::path target = folder / source.filename();
  fs::path temporary = target;
  temporary += ".tmp";
  std::error_code error;
  fs::copy_file(source, temporary, fs::copy_options::overwrite_existing, error);
  if (error) {
    files::fail_write(target, fmt::format("copy {} to it", source.string()), error.value());
  }
  files::publish(temporary, target);
}

/// What makes the parts a model.
void finish(const HfFolderRequest& request, const std::vector<Shard>& shards) {
  for (const fs::path& file : request.copy) {
    copy_beside(file, request.folder);
  }
  if (shards.size() > 1) {
    write_index(request.folder, shards);
  }
  Json config = hf_config_of(*request.family, request.model, request.router, request.type);
  const auto set = [&](const char* name, const std::vector<std::int32_t>& tokens) {
    if (!tokens.empty()) {
      config[name] = tokens.size() == 1 ? Json(tokens.front()) : Json(tokens);
    }
  };
  set("bos_token_id", request.special.bos);
  set("eos_token_id", request.special.eos);
  files::write_whole(request.folder / kConfigName, config.dump(2) + "\n");
  end_writing(request.folder);
}

}  // namespace

void write_hf_folder(const HfFolderRequest& request, const ReadPart& read,
                     const comm::Communicator& world) {
  std::vector<HfTensor> tensors;
  std::vector<Stored> stored;
  std::vector<Shard> shards;
  world.together("plan the folder", [&] {
    tensors = hf_tensors(*request.family, request.model, request.router);
    stored = stored_tensors(tensors, request.type);
    shards = shards_of(stored, request.shard_bytes);
    if (world.is_root()) {
      begin_writing(request.folder);
    }
  });
  try {
    world.together("write the model", [&] {
      for (auto i = static_cast<std::size_t>(world.rank()); i < shards.size();
           i += static_cast<std::size_t>(world.size())) {
        write_shard(request.folder / shard_name(i, shards.size()), shards[i], read);
      }
    });
    world.together("write the config", [&] {
      if (world.is_root()) {
        finish(request, shards);
      }
    });
  } catch (const comm::AgreedError&) {
    if (world.is_root()) {
      clear_written(request.folder);
    }
    throw;
  }
}

}  // namespace moesaic::hf
