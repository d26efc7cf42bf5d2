#include "checkpoint/adapter_source.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/json.h"
#include "base/sha256.h"
#include "checkpoint/lineage.h"
#include "checkpoint/manifest.h"
#include "config/compare.h"
#include "files/durable.h"
#include "model/parameter/adapter_rules.h"

namespace moesaic::checkpoint {
namespace fs = std::filesystem;

namespace {

// update (rows, columns) = B (rows, rank) A (rank, columns), row by row.
void add_product(std::span<const float> a, std::span<const float> b, std::size_t rank, float scale,
                 std::span<float> values) {
  const std::size_t columns = a.size() / rank;
  std::vector<float> update(columns);
  for (std::size_t row = 0; row * columns < values.size(); ++row) {
    std::fill(update.begin(), update.end(), 0.0F);
    for (std::size_t k = 0; k < rank; ++k) {
      const float factor = b[row * rank + k];
      for (std::size_t column = 0; column < columns; ++column) {
        update[column] += factor * a[k * columns + column];
      }
    }
    for (std::size_t column = 0; column < columns; ++column) {
      values[row * columns + column] += scale * update[column];
    }
  }
}

}  // namespace

AdapterSource::Texts AdapterSource::read(const fs::path& path) {
  if (hf::PeftFolder::is_one(path)) {
    return {path.string(), "", hf::read_peft_texts(path)};
  }
  const fs::path folder = CheckpointReader::find(path);
  return {folder.string(), files::read_whole(folder / kManifestName), {}};
}

AdapterSource AdapterSource::of(const Texts& texts, const hf::Family* family,
                                const config::Model& model, const config::Router& router) {
  if (texts.manifest.empty()) {
    if (family == nullptr) {
      throw Error(Exit::kUsage,
                  fmt::format("{}: a PEFT folder has the names of a published family, and this "
                              "model is of none",
                              texts.folder));
    }
    return AdapterSource(hf::PeftFolder::of(texts.folder, texts.peft, *family, model, router));
  }
  auto reader =
      std::make_shared<CheckpointReader>(CheckpointReader::of(texts.folder, texts.manifest));
  const float scale = scale_of(reader->state());
  if (scale == 0.0F) {
    throw Error(Exit::kBadData, fmt::format("{}: a checkpoint without adapters", texts.folder));
  }
  const Json config = reader->state().value("config", Json::object());
  if (config.value("train.trainable", "adapter") != "adapter") {
    throw Error(
        Exit::kUsage,
        fmt::format("{} has more that was trained than adapters (train.trainable = {}): name "
                    "it as model.path, without model.adapter",
                    texts.folder, config.value("train.trainable", "")));
  }
  AdapterSource source = within(*reader, scale);
  source.own_ = std::move(reader);
  return source;
}

AdapterSource AdapterSource::within(CheckpointReader& reader, float scale) {
  return AdapterSource(Stored{&reader, scale});
}

float AdapterSource::scale_of(const Json& state) {
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

bool AdapterSource::has(const std::string& weight) const {
  if (const Stored* const stored = std::get_if<Stored>(&source_)) {
    return stored->reader->shape(model::lora_a_name(weight)).has_value();
  }
  return std::get<hf::PeftFolder>(source_).has(weight);
}

std::vector<std::string> AdapterSource::names() const {
  const Stored* const stored = std::get_if<Stored>(&source_);
  if (stored == nullptr) {
    return std::get<hf::PeftFolder>(source_).names();
  }
  std::vector<std::string> names;
  for (const std::string& name : stored->reader->names()) {
    const bool is_moment = name.find('/') != std::string::npos;
    if (const std::string weight = model::adapted_weight(name);
        !is_moment && name == model::lora_a_name(weight)) {
      names.push_back(weight);
    }
  }
  return names;
}

std::string AdapterSource::fingerprint_of(const Texts& texts, bool with_times) {
  return texts.manifest.empty() ? hf::fingerprint(texts.peft, with_times)
                                : Sha256::of(std::as_bytes(std::span(texts.manifest)));
}

std::string AdapterSource::fingerprint(bool with_times) const {
  const Stored* const stored = std::get_if<Stored>(&source_);
  return stored != nullptr ? stored->reader->manifest_sha256()
                           : hf::fingerprint(std::get<hf::PeftFolder>(source_).texts(), with_times);
}

std::string AdapterSource::base_fingerprint() const {
  const Stored* const stored = std::get_if<Stored>(&source_);
  const Lineage lineage = stored != nullptr ? lineage_of(stored->reader->state()) : Lineage{};
  return lineage.empty() ? "" : lineage.back().fingerprint;
}

fs::path AdapterSource::path() const {
  const Stored* const stored = std::get_if<Stored>(&source_);
  return stored != nullptr ? stored->reader->path() : std::get<hf::PeftFolder>(source_).path();
}

void AdapterSource::add_to(const std::string& weight, const std::vector<std::int64_t>& offset,
                           const std::vector<std::int64_t>& extent, std::span<float> values) {
  if (values.empty()) {
    return;
  }
  std::int64_t rank = 0;
  float scale = 0.0F;
  std::vector<float> a, b;
  const auto make_room = [&] {
    a.resize(static_cast<std::size_t>(rank * extent[1]));
    b.resize(static_cast<std::size_t>(extent[0] * rank));
  };
  if (const Stored* const stored = std::get_if<Stored>(&source_)) {
    const std::string a_name = model::lora_a_name(weight);
    rank = stored->reader->shape(a_name)->front();
    scale = stored->scale;
    make_room();
    stored->reader->read(a_name, {0, offset[1]}, {rank, extent[1]}, a);
    stored->reader->read(model::lora_b_name(weight), {offset[0], 0}, {extent[0], rank}, b);
  } else {
    auto& folder = std::get<hf::PeftFolder>(source_);
    rank = folder.rank(weight);
    scale = static_cast<float>(folder.scale(weight));
    make_room();
    folder.read_a(weight, {offset[1], extent[1]}, a);
    folder.read_b(weight, {offset[0], extent[0]}, b);
  }
  add_product(a, b, static_cast<std::size_t>(rank), scale, values);
}

}  // namespace moesaic::checkpoint
