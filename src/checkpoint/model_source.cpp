#include "checkpoint/model_source.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/json.h"
#include "checkpoint/manifest.h"
#include "config/compare.h"
#include "files/durable.h"
#include "hf/family.h"

namespace moesaic::checkpoint {
namespace fs = std::filesystem;
ModelSource::Texts ModelSource::read(const fs::path& path) {
  if (hf::HfFolder::is_one(path)) {
    return {path.string(), "", hf::read_hf_texts(path)};
  }
  const fs::path folder = CheckpointReader::find(path);
  return {folder.string(), files::read_whole(folder / kManifestName), {}};
}

ModelSource ModelSource::of(const Texts& texts) {
  if (texts.manifest.empty() && !texts.theirs.config.empty()) {
    return ModelSource(hf::HfFolder::of(texts.folder, texts.theirs));
  }
  return ModelSource(CheckpointReader::of(texts.folder, texts.manifest));
}

const fs::path& ModelSource::path() const {
  return std::visit([](const auto& source) -> const fs::path& { return source.path(); }, source_);
}

std::string ModelSource::text() const {
  const std::string where = fs::absolute(path()).string();
  if (const CheckpointReader* const ours = checkpoint()) {
    return fmt::format("{} step={}", where, ours->state().value("step", std::int64_t{0}));
  }
  return fmt::format("{} ({})", where, std::get<hf::HfFolder>(source_).config().family->name);
}

std::string ModelSource::fingerprint(Times times) const {
  return checkpoint() != nullptr
             ? checkpoint()->manifest_sha256()
             : hf::fingerprint(std::get<hf::HfFolder>(source_).texts(), times == Times::kCount);
}

config::Config ModelSource::config() const {
  const CheckpointReader* const ours = checkpoint();
  if (ours == nullptr) {
    const hf::HfConfig& theirs = std::get<hf::HfFolder>(source_).config();
    config::Config config;
    config.model = theirs.model;
    config.router = theirs.router;
    return config;
  }
  config::Flat sections;
  for (const auto& [key, value] : ours->state().at("config").items()) {
    if (key.starts_with("model.") || key.starts_with("router.")) {
      sections.emplace_back(key, value.get<std::string>());
    }
  }
  return config::unflatten(sections);
}

std::string ModelSource::vocab_sha256() const {
  const CheckpointReader* const ours = checkpoint();
  return ours == nullptr ? "" : ours->state().at("vocab_sha256").get<std::string>();
}

std::vector<std::string> ModelSource::tasks() const {
  const CheckpointReader* const ours = checkpoint();
  return ours == nullptr ? std::vector<std::string>{"none"}
                         : ours->state().at("task_names").get<std::vector<std::string>>();
}

std::vector<std::string> ModelSource::pool() const {
  const CheckpointReader* const ours = checkpoint();
  return ours == nullptr ? std::vector<std::string>{}
                         : ours->state().value("pool", std::vector<std::string>{});
}

hf::SpecialTokens ModelSource::special_tokens() const {
  const CheckpointReader* const ours = checkpoint();
  if (ours == nullptr) {
    return hf::special_tokens(std::get<hf::HfFolder>(source_).texts(), path());
  }
  const auto tokens = [&](const char* name) {
    return ours->state().value(name, std::vector<std::int32_t>{});
  };
  return {tokens("begin_tokens"), tokens("end_tokens")};
}

std::vector<std::string> ModelSource::names() const {
  return std::visit([](const auto& source) { return source.names(); }, source_);
}

std::optional<std::vector<std::int64_t>> ModelSource::shape(const std::string& name) const {
  return std::visit([&](const auto& source) { return source.shape(name); }, source_);
}

void ModelSource::read(const std::string& name, const std::vector<std::int64_t>& offset,
                       const std::vector<std::int64_t>& extent, std::span<float> values) {
  std::visit([&](auto& source) { source.read(name, offset, extent, values); }, source_);
}

DType ModelSource::exact_type(const std::string& name) {
  if (hf::HfFolder* const theirs = folder()) {
    return theirs->exact_type(name);
  }
  const DType type = checkpoint()->stored_type(name);
  return is_quantized(type) ? DType::kF32 : type;
}

std::optional<DType> ModelSource::quantized() const {
  for (const std::string& name : checkpoint() != nullptr ? names() : std::vector<std::string>{}) {
    if (const auto type = quantized(name)) {
      return type;
    }
  }
  return std::nullopt;
}

std::optional<DType> ModelSource::quantized(const std::string& name) const {
  return checkpoint() != nullptr ? checkpoint()->quantized(name) : std::nullopt;
}

QuantizedRows ModelSource::read_quantized(const std::string& name,
                                          const std::vector<std::int64_t>& offset,
                                          const std::vector<std::int64_t>& extent) {
  require(checkpoint() != nullptr, "a Hugging Face folder has no codes");
  return checkpoint()->read_quantized(name, offset, extent);
}

}  // namespace moesaic::checkpoint
