#include "checkpoint/manifest.h"

#include <fmt/format.h>

#include <algorithm>
#include <span>

#include "base/error.h"
#include "base/json.h"
#include "base/sha256.h"
#include "base/text.h"
#include "checkpoint/block.h"
#include "files/durable.h"
#include "files/format_version.h"

namespace moesaic::checkpoint {

namespace {

constexpr const char* kSchema = "moesaic-checkpoint";
// 1: all blocks are fp32 and do not say so. 2: blocks have a type. What has fp32 alone is written
// as version 1, which older programs read.
constexpr int kVersion = 2;

std::string dump(const Json& value, int indent) {
  return value.dump(indent, Json::Bytes::kReplaced);
}

std::string checksum(const Json& body) {
  const std::string text = dump(body, -1);
  return Sha256::of(std::as_bytes(std::span(text)));
}

Json files_to_json(const std::map<std::string, StoredFile>& files) {
  Json result = Json::object();
  for (const auto& [name, file] : files) {
    result[name] = {{"bytes", file.bytes}, {"sha256", file.sha256}};
  }
  return result;
}

std::map<std::string, StoredFile> files_from_json(const Json& list) {
  std::map<std::string, StoredFile> files;
  for (const auto& [name, file] : list.items()) {
    if (name.find('/') != std::string::npos || name == "..") {
      throw Error(Exit::kBadData, fmt::format("file name '{}' leaves the folder", name));
    }
    files[name] = {file.at("bytes").get<std::int64_t>(), file.at("sha256").get<std::string>()};
  }
  return files;
}

bool inside(const StoredBlock& block, const files::Extents& shape) {
  bool fits = block.offset.size() == shape.size() && block.extent.size() == shape.size();
  for (std::size_t i = 0; fits && i < shape.size(); ++i) {
    fits = block.offset[i] >= 0 && block.extent[i] > 0 && block.offset[i] < shape[i] &&
           block.extent[i] <= shape[i] - block.offset[i];
  }
  return fits;
}

bool overlap(const StoredBlock& a, const StoredBlock& b) {
  for (std::size_t i = 0; i < a.offset.size(); ++i) {
    if (a.offset[i] + a.extent[i] <= b.offset[i] || b.offset[i] + b.extent[i] <= a.offset[i]) {
      return false;
    }
  }
  return true;
}

// Quantized blocks are cut block-aligned: between columns that have different scales.
bool is_possible(const StoredBlock& block, const files::Extents& shape) {
  if (!is_quantized(block.type)) {
    return true;
  }
  const auto between = [&](std::int64_t column) {
    return column % kQuantizedBlock == 0 || column == shape[1];
  };
  return shape.size() == 2 && block.offset[1] % kQuantizedBlock == 0 &&
         between(block.offset[1] + block.extent[1]);
}

StoredTensor tensor_from_json(const Json& value, const Manifest& manifest) {
  StoredTensor tensor;
  tensor.shape = value.at("shape").get<files::Extents>();
  for (const Json& entry : value.at("blocks")) {
    tensor.blocks.push_back(block_from_json(entry));
    const StoredBlock& block = tensor.blocks.back();
    const auto part = manifest.parts.find(block.part);
    if (part == manifest.parts.end()) {
      throw Error(Exit::kBadData, fmt::format("part '{}' is not listed", block.part));
    }
    const bool holds =
        inside(block, tensor.shape) && is_possible(block, tensor.shape) &&
        bytes_of(block.type, block.extent) <= static_cast<double>(part->second.bytes);
    if (!holds) {
      throw Error(Exit::kBadData,
                  fmt::format("a block in '{}' is outside its tensor or part", block.part));
    }
  }
  return tensor;
}

Manifest parse(const std::string& text, const std::filesystem::path& file) {
  Json body = Json::parse(text);
  files::check_format(file, body.at("schema").get<std::string>(),
                      body.at("version").get<std::int64_t>(), kSchema, kVersion);
  const auto stated = body.at("sha256").get<std::string>();
  body.erase("sha256");
  if (stated != checksum(body)) {
    throw Error(Exit::kBadData, "its own checksum is wrong");
  }
  Manifest manifest;
  manifest.step = body.at("step").get<std::int64_t>();
  manifest.parts = files_from_json(body.at("parts"));
  manifest.files = files_from_json(body.at("files"));
  for (const auto& [name, tensor] : body.at("tensors").items()) {
    manifest.tensors[name] = tensor_from_json(tensor, manifest);
  }
  manifest.state = std::make_shared<const Json>(body.at("state"));
  return manifest;
}

}  // namespace

Json block_to_json(const StoredBlock& block) {
  Json value{{"part", block.part},
             {"dataset", block.dataset},
             {"offset", block.offset},
             {"extent", block.extent},
             {"sha256", block.sha256}};
  if (block.type != DType::kF32) {
    value["type"] = name_of(block.type);
  }
  return value;
}

StoredBlock block_from_json(const Json& value) {
  const std::string name = value.value("type", std::string(name_of(DType::kF32)));
  const auto type = block_type(name);
  if (!type) {
    throw Error(Exit::kBadData, fmt::format("a block has the type '{}', which is not known", name));
  }
  return {value.at("part").get<std::string>(),      value.at("dataset").get<std::string>(),
          value.at("offset").get<files::Extents>(), value.at("extent").get<files::Extents>(),
          value.at("sha256").get<std::string>(),    *type};
}

std::string to_text(const Manifest& manifest) {
  Json tensors = Json::object();
  int version = 1;
  for (const auto& [name, tensor] : manifest.tensors) {
    Json blocks = Json::array();
    for (const StoredBlock& block : tensor.blocks) {
      version = block.type == DType::kF32 ? version : kVersion;
      blocks.push_back(block_to_json(block));
    }
    Json& entry = tensors[name];
    entry["shape"] = tensor.shape;
    entry["blocks"] = std::move(blocks);
  }
  Json body{{"schema", kSchema},
            {"version", version},
            {"step", manifest.step},
            {"files", files_to_json(manifest.files)},
            {"state", *manifest.state}};
  body["parts"] = files_to_json(manifest.parts);  // these two are large: no copies
  body["tensors"] = std::move(tensors);
  // The checksum is that of the text as it will be read back: dump replaces invalid UTF-8.
  body["sha256"] = checksum(Json::parse(dump(body, -1)));
  return dump(body, 1) + "\n";
}

Manifest read_manifest(const std::filesystem::path& checkpoint) {
  return parse_manifest(checkpoint, files::read_whole(checkpoint / kManifestName));
}

Manifest parse_manifest(const std::filesystem::path& checkpoint, const std::string& text) {
  const std::filesystem::path file = checkpoint / kManifestName;
  try {
    return parse(text, file);
  } catch (const JsonError& error) {
    fail_damaged(file, fmt::format("is truncated or damaged ({})", error.what()));
  } catch (const Error& error) {
    if (!files::is_damage(error)) {
      throw;
    }
    fail_damaged(file, fmt::format("is damaged: {}", error.what()));
  }
}

void fail_damaged(const std::filesystem::path& file, const std::string& what) {
  throw Error(Exit::kBadData,
              fmt::format("{}: {}. Remedy: delete {}; the next older checkpoint is then used",
                          file.string(), what, file.parent_path().string()));
}

std::int64_t volume(const files::Extents& extent) {
  std::int64_t result = 1;
  for (const std::int64_t one : extent) {
    if (__builtin_mul_overflow(result, one, &result)) {
      throw Error(Exit::kBadData, fmt::format("a shape [{}] is too large", join(extent, ", ")));
    }
  }
  return result;
}

std::string coverage_problem(const std::string& name, const StoredTensor& tensor) {
  std::vector<StoredBlock> blocks = tensor.blocks;
  std::sort(blocks.begin(), blocks.end(),
            [](const auto& a, const auto& b) { return a.offset < b.offset; });
  std::int64_t covered = 0;
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    if (!inside(blocks[i], tensor.shape)) {
      return fmt::format("{}: block [{}] + [{}] is outside [{}]", name,
                         join(blocks[i].offset, ", "), join(blocks[i].extent, ", "),
                         join(tensor.shape, ", "));
    }
    covered += volume(blocks[i].extent);
    // Sorted by the first dim: what begins after this block's end cannot overlap it.
    for (std::size_t j = i + 1; j < blocks.size(); ++j) {
      if (!tensor.shape.empty() &&
          blocks[j].offset[0] >= blocks[i].offset[0] + blocks[i].extent[0]) {
        break;
      }
      if (overlap(blocks[i], blocks[j])) {
        return fmt::format("{}: two blocks hold the same elements, at [{}] and at [{}]", name,
                           join(blocks[i].offset, ", "), join(blocks[j].offset, ", "));
      }
    }
  }
  if (covered != volume(tensor.shape)) {
    return fmt::format("{}: the blocks hold {} of its {} elements", name, covered,
                       volume(tensor.shape));
  }
  return "";
}

std::filesystem::path checkpoint_folder(const std::filesystem::path& dir, std::int64_t step) {
  return dir / fmt::format("step-{:08}", step);
}

}  // namespace moesaic::checkpoint
