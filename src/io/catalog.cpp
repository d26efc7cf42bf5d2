#include "io/catalog.h"

#include <utility>
#include <vector>

#include "io/corpus_manifest.h"

namespace moesaic::io {
namespace {

/// Collective: the entries of rank 0, on all ranks.
void broadcast(std::map<std::string, std::string>& texts, const comm::Communicator& world) {
  std::vector<std::pair<std::string, std::string>> entries(texts.begin(), texts.end());
  auto count = static_cast<std::int64_t>(entries.size());
  world.broadcast(std::span<std::int64_t>(&count, 1), 0);
  entries.resize(static_cast<std::size_t>(count));
  for (auto& [path, text] : entries) {
    world.broadcast(path, 0);
    world.broadcast(text, 0);
  }
  texts = {entries.begin(), entries.end()};
}

}  // namespace

const CorpusInfo& Catalog::corpus(const std::string& path) {
  const auto known = corpora_.find(path);
  if (known != corpora_.end()) {
    return known->second;
  }
  const auto text = corpus_texts_.find(path);
  if (text != corpus_texts_.end()) {
    return corpora_.emplace(path, corpus_of_text(text->second)).first->second;
  }
  const CorpusInfo& info = corpora_.emplace(path, find_corpus(path)).first->second;
  corpus_texts_[path] = to_text(info);
  return info;
}

ModelSource& Catalog::model(const std::filesystem::path& path) {
  const std::string& name = path.native();
  const auto known = models_.find(name);
  if (known != models_.end()) {
    return known->second;
  }
  const auto text = model_texts_.find(name);
  if (text != model_texts_.end()) {
    return models_.emplace(name, ModelSource::of_text(text->second)).first->second;
  }
  std::string read = ModelSource::read(path);
  ModelSource& source = models_.emplace(name, ModelSource::of_text(read)).first->second;
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

}  // namespace moesaic::io
