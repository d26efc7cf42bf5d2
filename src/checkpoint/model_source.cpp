#include "checkpoint/model_source.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/json.h"
#include "checkpoint/manifest.h"
#include "config/compare.h"
#include "files/durable.h"
#include "hf/family.h"
#include "model/parameter/adapter_rules.h"

namespace moesaic::checkpoint {
namespace fs = std::filesystem;
namespace {

// A chain of bases is as long as the stages of a model's training.
constexpr int kMostBases = 32;

ModelSource::Texts read_texts(const fs::path& path, int depth);

// The base of a checkpoint, which must be what it was trained from.
ModelSource::Texts read_base(const fs::path& folder, const Ancestor& base, int depth) {
  if (depth >= kMostBases) {
    throw Error(Exit::kBadData, fmt::format("{}: its chain of bases has no end", folder.string()));
  }
  ModelSource::Texts texts;
  try {
    texts = read_texts(base.path, depth);
  } catch (const Error& error) {
    throw Error(error.code(), fmt::format("{} holds only what was trained. Its base {} cannot be "
                                          "read: {}. Put it back there",
                                          folder.string(), base.path, error.what()));
  }
  const std::string found = ModelSource::of(texts).fingerprint(ModelSource::Times::kIgnored);
  if (found != base.fingerprint) {
    throw Error(Exit::kMismatch,
                fmt::format("{} holds only what was trained, from {} with fingerprint {:.12}; what "
                            "is there now has {:.12}: put the base back there",
                            folder.string(), base.path, base.fingerprint, found));
  }
  return texts;
}

ModelSource::Texts read_texts(const fs::path& path, int depth) {
  if (hf::HfFolder::is_one(path)) {
    return {path.string(), "", hf::read_hf_texts(path)};
  }
  const fs::path folder = CheckpointReader::find(path);
  ModelSource::Texts texts{folder.string(), files::read_whole(folder / kManifestName), {}};
  const CheckpointReader reader = CheckpointReader::of(folder, texts.manifest);
  if (needs_base(reader.state())) {
    const Lineage lineage = lineage_of(reader.state());
    if (lineage.empty()) {
      fail_damaged(folder / kManifestName, "names no base, but holds only what was trained");
    }
    texts.base = std::make_shared<ModelSource::Texts>(read_base(folder, lineage.back(), depth + 1));
  }
  return texts;
}

// Of the adapters that a run had; 0: it had none.
float scale_of(const Json& state) {
  const Json config = state.value("config", Json::object());
  config::Flat keys;
  for (const auto& [key, value] : config.items()) {
    if (key.starts_with("adapter.")) {
      keys.emplace_back(key, value.get<std::string>());
    }
  }
  const config::Adapter adapter = config::unflatten(keys).adapter;
  return adapter.rank > 0 ? static_cast<float>(model::adapter_scale(adapter)) : 0.0F;
}

}  // namespace

ModelSource::Texts ModelSource::read(const fs::path& path) { return read_texts(path, 0); }

ModelSource ModelSource::of(const Texts& texts) {
  if (texts.manifest.empty() && !texts.theirs.config.empty()) {
    return ModelSource(hf::HfFolder::of(texts.folder, texts.theirs));
  }
  ModelSource source(CheckpointReader::of(texts.folder, texts.manifest));
  source.scale_ = scale_of(source.checkpoint()->state());
  if (texts.base != nullptr) {
    source.base_ = std::make_shared<ModelSource>(of(*texts.base));
  }
  return source;
}

const fs::path& ModelSource::path() const {
  return std::visit([](const auto& source) -> const fs::path& { return source.path(); }, source_);
}

std::string ModelSource::text() const {
  const std::string where = fs::absolute(path()).string();
  if (const CheckpointReader* const ours = checkpoint()) {
    return fmt::format("{} step={}{}", where, ours->state().value("step", std::int64_t{0}),
                       base_ != nullptr ? ", on " + base_->path().string() : "");
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

Lineage ModelSource::lineage() const {
  return checkpoint() == nullptr ? Lineage{} : lineage_of(checkpoint()->state());
}

Ancestor ModelSource::as_ancestor() const {
  Ancestor ancestor{.path = fs::absolute(path()).lexically_normal().string(),
                    .step = -1,
                    .fingerprint = fingerprint(Times::kIgnored),
                    .objective = ""};
  if (checkpoint() != nullptr) {
    ancestor.step = checkpoint()->state().value("step", std::int64_t{0});
    ancestor.objective = checkpoint()->state().value("objective", "");
  }
  return ancestor;
}

bool ModelSource::is_in_base(const std::string& name) const {
  return base_ != nullptr && !checkpoint()->shape(name);
}

bool ModelSource::is_adapted(const std::string& name) const {
  return merges_ && scale_ != 0.0F && checkpoint()->shape(model::lora_a_name(name)).has_value();
}

std::vector<std::string> ModelSource::names() const {
  std::vector<std::string> all =
      std::visit([](const auto& source) { return source.names(); }, source_);
  for (const std::string& name : base_ != nullptr ? base_->names() : std::vector<std::string>{}) {
    if (is_in_base(name)) {
      all.push_back(name);
    }
  }
  if (merges_ && scale_ != 0.0F) {
    std::erase_if(all, [](const std::string& name) { return model::is_of_adapter(name); });
  }
  return all;
}

std::optional<std::vector<std::int64_t>> ModelSource::shape(const std::string& name) const {
  if (merges_ && model::is_of_adapter(name)) {
    return std::nullopt;
  }
  return is_in_base(name)
             ? base_->shape(name)
             : std::visit([&](const auto& source) { return source.shape(name); }, source_);
}

void ModelSource::read(const std::string& name, const std::vector<std::int64_t>& offset,
                       const std::vector<std::int64_t>& extent, std::span<float> values) {
  if (is_in_base(name)) {
    base_->read(name, offset, extent, values);
  } else {
    std::visit([&](auto& source) { source.read(name, offset, extent, values); }, source_);
  }
  if (is_adapted(name)) {
    add_update(name, offset, extent, values);
  }
}

// Each element by itself, its sum over the rank in order: no part or rank changes its bits.
void ModelSource::add_update(const std::string& name, const std::vector<std::int64_t>& offset,
                             const std::vector<std::int64_t>& extent, std::span<float> values) {
  const std::string a_name = model::lora_a_name(name);
  const std::int64_t rank = checkpoint()->shape(a_name)->front();
  const auto columns = static_cast<std::size_t>(extent[1]);
  std::vector<float> a(static_cast<std::size_t>(rank) * columns);
  std::vector<float> b(static_cast<std::size_t>(extent[0] * rank));
  checkpoint()->read(a_name, {0, offset[1]}, {rank, extent[1]}, a);
  checkpoint()->read(model::lora_b_name(name), {offset[0], 0}, {extent[0], rank}, b);
  std::vector<float> update(columns);
  for (std::size_t row = 0; row < static_cast<std::size_t>(extent[0]); ++row) {
    std::fill(update.begin(), update.end(), 0.0F);
    for (std::size_t k = 0; k < static_cast<std::size_t>(rank); ++k) {
      const float factor = b[row * static_cast<std::size_t>(rank) + k];
      for (std::size_t column = 0; column < columns; ++column) {
        update[column] += factor * a[k * columns + column];
      }
    }
    for (std::size_t column = 0; column < columns; ++column) {
      values[row * columns + column] += scale_ * update[column];
    }
  }
}

DType ModelSource::exact_type(const std::string& name) {
  if (is_adapted(name)) {
    return DType::kF32;
  }
  if (is_in_base(name)) {
    return base_->exact_type(name);
  }
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
  if (is_adapted(name) || checkpoint() == nullptr) {
    return std::nullopt;
  }
  return is_in_base(name) ? base_->quantized(name) : checkpoint()->quantized(name);
}

QuantizedRows ModelSource::read_quantized(const std::string& name,
                                          const std::vector<std::int64_t>& offset,
                                          const std::vector<std::int64_t>& extent) {
  if (is_in_base(name)) {
    return base_->read_quantized(name, offset, extent);
  }
  require(checkpoint() != nullptr, "a Hugging Face folder has no codes");
  return checkpoint()->read_quantized(name, offset, extent);
}

}  // namespace moesaic::checkpoint
