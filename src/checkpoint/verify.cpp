#include <fmt/format.h>

#include "base/error.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/manifest.h"
#include "files/durable.h"
#include "files/problems.h"

namespace moesaic::checkpoint {
namespace {

void check_file(const std::filesystem::path& file, const StoredFile& stored,
                std::vector<std::string>& problems) {
  std::error_code error;
  const auto bytes = static_cast<std::int64_t>(std::filesystem::file_size(file, error));
  if (error) {
    problems.push_back(fmt::format("{}: {}", file.string(), error.message()));
  } else if (bytes != stored.bytes) {
    problems.push_back(
        fmt::format("{}: has {} bytes, its manifest says {}", file.string(), bytes, stored.bytes));
  } else if (!stored.sha256.empty() && files::sha256_of_file(file) != stored.sha256) {
    problems.push_back(fmt::format("{}: its sha256 is not the manifest's", file.string()));
  }
}

}  // namespace

std::vector<std::string> verify_checkpoint(const std::filesystem::path& path) {
  files::Problems problems;
  files::note(problems, [&] {
    CheckpointReader reader = CheckpointReader::open(path);
    const Manifest manifest = read_manifest(reader.path());
    for (const auto* list : {&manifest.parts, &manifest.files}) {
      for (const auto& [name, file] : *list) {
        check_file(reader.path() / name, file, problems);
      }
    }
    for (const auto& entry : manifest.tensors) {
      const std::string& name = entry.first;
      const StoredTensor& tensor = entry.second;
      if (const std::string problem = coverage_problem(name, tensor); !problem.empty()) {
        problems.push_back(problem);
      }
      for (const StoredBlock& block : tensor.blocks) {
        files::note(problems, [&] {
          std::vector<float> values(static_cast<std::size_t>(volume(block.extent)));
          reader.read(name, block.offset, block.extent, values);
        });
      }
    }
  });
  return problems;
}

}  // namespace moesaic::checkpoint
