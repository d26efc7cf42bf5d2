#include "checkpoint/model_source.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/json.h"
#include "base/sha256.h"
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

ModelSource::Texts read_texts(const fs::path& path, const fs::path& adapter, int depth);

// The base of a checkpoint, which must be what it was trained from.
ModelSource::Texts read_base(const fs::path& folder, const Ancestor& base, int depth) {
  if (depth >= kMostBases) {
    throw Error(Exit::kBadData, fmt::format("{}: its chain of bases has no end", folder.string()));
  }
  ModelSource::Texts texts;
  try {
    texts = read_texts(base.path, base.adapter, depth);
  } catch (const Error& error) {
    throw Error(error.code(), fmt::format("{} holds only what was trained. Its base {} cannot be "
                                          "read: {}. Put it back there",
                                          folder.string(), base.path, error.what()));
  }
  const std::string found = ModelSource::fingerprint_of(texts, ModelSource::Times::kIgnored);
  if (found != base.fingerprint) {
    throw Error(Exit::kMismatch,
                fmt::format("{} holds only what was trained, from {} with fingerprint {:.12}; what "
                            "is there now has {:.12}: put the base back there",
                            folder.string(), base.path, base.fingerprint, found));
  }
  return texts;
}

ModelSource::Texts read_texts(const fs::path& path, const fs::path& adapter, int depth) {
  ModelSource::Texts texts;
  if (!adapter.empty()) {
    texts.adapter = AdapterSource::read(adapter);
  }
  if (hf::HfFolder::is_one(path)) {
    texts.folder = path.string();
    texts.theirs = hf::read_hf_texts(path);
    return texts;
  }
  const fs::path folder = CheckpointReader::find(path);
  texts.folder = folder.string();
  texts.manifest = files::read_whole(folder / kManifestName);
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

}  // namespace

ModelSource::Texts ModelSource::read(const fs::path& path, const fs::path& adapter) {
  return read_texts(path, adapter, 0);
}

namespace {

// The fingerprint of a model and an adapter that is added to it, of those of the two.
std::string with_adapter(const std::string& model, const std::string& adapter) {
  const std::string both = model + adapter;
  return Sha256::of(std::as_bytes(std::span(both)));
}

// The family whose names a PEFT folder has; nullptr: the model is of none.
const hf::Family* family_of(ModelSource& source, const config::Config& config) {
  if (source.folder() != nullptr) {
    return source.folder()->config().family;
  }
  try {
    return &hf::family_for(config.model, config.router);
  } catch (const Error&) {
    return nullptr;
  }
}

void check_base(const AdapterSource& adapter, const ModelSource& base) {
  const std::string trained_on = adapter.base_fingerprint();
  const std::string found = base.fingerprint(ModelSource::Times::kIgnored);
  if (!trained_on.empty() && trained_on != found) {
    throw Error(Exit::kMismatch,
                fmt::format("model.adapter = {} was trained on a model with fingerprint {:.12}; {} "
                            "has {:.12}",
                            adapter.path().string(), trained_on, base.path().string(), found));
  }
}

void refuse_codes(const ModelSource& source) {
  if (const auto type = source.quantized()) {
    throw Error(Exit::kUsage,
                fmt::format("{} has its weights in {} alone, which an adapter cannot be added to: "
                            "use the model that it was made of",
                            source.path().string(), name_of(*type)));
  }
}

}  // namespace

ModelSource ModelSource::of(const Texts& texts) {
  ModelSource source = of_folder(texts);
  if (!texts.adapter.folder.empty()) {
    const config::Config config = source.config();
    auto adapter = std::make_shared<AdapterSource>(
        AdapterSource::of(texts.adapter, family_of(source, config), config.model, config.router));
    check_base(*adapter, source);
    refuse_codes(source);
    source.attached_ = std::move(adapter);
  }
  return source;
}

ModelSource ModelSource::of_folder(const Texts& texts) {
  if (texts.manifest.empty() && !texts.theirs.config.empty()) {
    return ModelSource(hf::HfFolder::of(texts.folder, texts.theirs));
  }
  ModelSource source(CheckpointReader::of(texts.folder, texts.manifest));
  source.scale_ = AdapterSource::scale_of(source.checkpoint()->state());
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
  const std::string adapter =
      attached_ != nullptr ? " with " + fs::absolute(attached_->path()).string() : "";
  if (const CheckpointReader* const ours = checkpoint()) {
    return fmt::format("{} step={}{}", where, ours->state().value("step", std::int64_t{0}),
                       base_ != nullptr ? ", on " + base_->path().string() : "") +
           adapter;
  }
  return fmt::format("{} ({}){}", where, std::get<hf::HfFolder>(source_).config().family->name,
                     adapter);
}

std::string ModelSource::fingerprint_of(const Texts& texts, Times times) {
  const bool with_times = times == Times::kCount;
  std::string own = texts.manifest.empty() ? hf::fingerprint(texts.theirs, with_times)
                                           : Sha256::of(std::as_bytes(std::span(texts.manifest)));
  return texts.adapter.folder.empty()
             ? own
             : with_adapter(own, AdapterSource::fingerprint_of(texts.adapter, with_times));
}

std::string ModelSource::fingerprint(Times times) const {
  const bool with_times = times == Times::kCount;
  std::string own = checkpoint() != nullptr
                        ? checkpoint()->manifest_sha256()
                        : hf::fingerprint(std::get<hf::HfFolder>(source_).texts(), with_times);
  return attached_ == nullptr ? own : with_adapter(own, attached_->fingerprint(with_times));
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
    const bool is_place = key == "model.path" || key == "model.adapter";
    if ((key.starts_with("model.") && !is_place) || key.starts_with("router.")) {
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
                    .adapter = attached_ == nullptr
                                   ? ""
                                   : fs::absolute(attached_->path()).lexically_normal().string(),
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
  const bool of_training = name.find('/') != std::string::npos;  // moments are of this run
  return base_ != nullptr && !of_training && !checkpoint()->shape(name);
}

bool ModelSource::has_own_adapter(const std::string& name) const {
  return merges_ && scale_ != 0.0F && checkpoint()->shape(model::lora_a_name(name)).has_value();
}

bool ModelSource::is_adapted(const std::string& name) const {
  return has_own_adapter(name) || (attached_ != nullptr && attached_->has(name));
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
  if (has_own_adapter(name)) {
    AdapterSource::within(*checkpoint(), scale_).add_to(name, offset, extent, values);
  }
  if (attached_ != nullptr && attached_->has(name)) {
    attached_->add_to(name, offset, extent, values);
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
