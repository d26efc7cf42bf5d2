#include "checkpoint/catalog.h"

#include <utility>

#include "data/corpus/manifest.h"

namespace moesaic::checkpoint {
namespace {

void broadcast(std::string& text, const comm::Communicator& world) { world.broadcast(text, 0); }

void broadcast(ModelSource::Texts& texts, const comm::Communicator& world) {
  hf::HfTexts& theirs = texts.theirs;
  for (std::string* text :
       {&texts.folder, &texts.manifest, &theirs.config, &theirs.generation, &theirs.index,
        &theirs.weights, &texts.adapter.folder, &texts.adapter.manifest, &texts.adapter.peft.config,
        &texts.adapter.peft.tensors, &texts.adapter.peft.weights}) {
    world.broadcast(*text, 0);
  }
  std::int64_t has_base = texts.base != nullptr ? 1 : 0;
  world.broadcast(std::span<std::int64_t>(&has_base, 1), 0);
  if (has_base != 0) {
    texts.base = texts.base != nullptr ? texts.base : std::make_shared<ModelSource::Texts>();
    broadcast(*texts.base, world);
  }
}

/// Collective: the entries of rank 0, on all ranks.
template <class Texts>
void broadcast(std::map<std::string, Texts>& all, const comm::Communicator& world) {
  auto count = static_cast<std::int64_t>(all.size());
  world.broadcast(std::span<std::int64_t>(&count, 1), 0);
  if (!world.is_root()) {
    all.clear();
  }
  auto entry = all.begin();
  for (std::int64_t i = 0; i < count; ++i) {
    std::string path = world.is_root() ? entry->first : "";
    world.broadcast(path, 0);
    broadcast(world.is_root() ? (entry++)->second : all[path], world);
  }
}

}  // namespace

const data::CorpusInfo& Catalog::corpus(const std::string& path) {
  const auto known = corpora_.find(path);
  if (known != corpora_.end()) {
    return known->second;
  }
  const auto text = corpus_texts_.find(path);
  if (text != corpus_texts_.end()) {
    return corpora_.emplace(path, data::corpus_of_text(text->second)).first->second;
  }
  const data::CorpusInfo& info = corpora_.emplace(path, data::find_corpus(path)).first->second;
  corpus_texts_[path] = to_text(info);
  return info;
}

std::vector<data::CorpusInfo> Catalog::corpora(const std::vector<std::string>& paths) {
  std::vector<data::CorpusInfo> infos;
  infos.reserve(paths.size());
  for (const std::string& path : paths) {
    infos.push_back(corpus(path));
  }
  return infos;
}

ModelSource& Catalog::model(const std::filesystem::path& path,
                            const std::filesystem::path& adapter) {
  const std::string name = path.native() + "\n" + adapter.native();
  const auto known = models_.find(name);
  if (known != models_.end()) {
    return known->second;
  }
  const auto text = model_texts_.find(name);
  if (text != model_texts_.end()) {
    return models_.emplace(name, ModelSource::of(text->second)).first->second;
  }
  ModelSource::Texts read = ModelSource::read(path, adapter);
  ModelSource& source = models_.emplace(name, ModelSource::of(read)).first->second;
  model_texts_[name] = std::move(read);
  return source;
}

void Catalog::share(const comm::Communicator& world) {
  broadcast(corpus_texts_, world);
  broadcast(model_texts_, world);
  if (world.is_root()) {
    corpus_texts_.clear();
    model_texts_.clear();
  }
}

void read_once(Catalog& catalog, const comm::Communicator& world, std::string_view what,
               const std::function<void()>& step) {
  world.together(what, [&] {
    if (world.is_root()) {
      step();
    }
  });
  catalog.share(world);
  world.together(what, [&] {
    if (!world.is_root()) {
      step();
    }
  });
}

}  // namespace moesaic::checkpoint
