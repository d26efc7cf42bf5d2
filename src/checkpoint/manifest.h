#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "files/hdf5/file.h"

// manifest.json: what a checkpoint holds and where. Its own "sha256" covers everything else in it.
namespace moesaic {
class Json;
}

namespace moesaic::checkpoint {

inline constexpr const char* kManifestName = "manifest.json";
inline constexpr const char* kTemporary = ".tmp";  // ends the name of an unfinished checkpoint
inline constexpr const char* kReplaced = ".replaced.tmp";  // and of one that gave way to another

/// Elements [offset, offset + extent) of a tensor: one dataset (or group of them) of one part.
struct StoredBlock {
  std::string part, dataset;
  files::Extents offset, extent;
  std::string sha256;  // of the stored bytes
  DType type = DType::kF32;
};
struct StoredTensor {
  files::Extents shape;
  std::vector<StoredBlock> blocks;
};
struct StoredFile {
  std::int64_t bytes = 0;
  std::string sha256;  // empty for parts: their blocks have one each
};
struct Manifest {
  std::int64_t step = 0;
  std::map<std::string, StoredFile> parts, files;
  std::map<std::string, StoredTensor> tensors;
  std::shared_ptr<const Json> state;
};

std::string to_text(const Manifest& manifest);
/// kBadData if anything in it is not as to_text writes it.
Manifest read_manifest(const std::filesystem::path& checkpoint);
/// The same for a text that was read from there.
Manifest parse_manifest(const std::filesystem::path& checkpoint, const std::string& text);

/// kBadData that names a file of a checkpoint, what is wrong, and the remedy.
[[noreturn]] void fail_damaged(const std::filesystem::path& file, const std::string& what);

std::int64_t volume(const files::Extents& extent);
/// Why the blocks do not cover the tensor exactly once; empty if they do.
std::string coverage_problem(const std::string& name, const StoredTensor& tensor);

std::filesystem::path checkpoint_folder(const std::filesystem::path& dir, std::int64_t step);

Json block_to_json(const StoredBlock& block);
StoredBlock block_from_json(const Json& json);

}  // namespace moesaic::checkpoint
