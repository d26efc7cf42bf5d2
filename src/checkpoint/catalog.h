#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/model_source.h"
#include "comm/communicator.h"
#include "data/corpus/corpus.h"

namespace moesaic::checkpoint {

/// The corpora and models that a job names, by their paths. Rank 0 finds and reads each of them
/// once; the other ranks get the text of its manifest, or of its config and index, and look at no
/// file until they need what is in it.
class Catalog {
 public:
  /// Checked as by Corpus::open.
  const data::CorpusInfo& corpus(const std::string& path);
  std::vector<data::CorpusInfo> corpora(const std::vector<std::string>& paths);
  /// It stays open. adapter: that is added to its weights; empty: none.
  ModelSource& model(const std::filesystem::path& path, const std::filesystem::path& adapter = {});
  /// The model that a job names: model.path with model.adapter.
  ModelSource& model(const config::Model& named) { return model(named.path, named.adapter); }

  /// Collective over world: what rank 0 has read since the last time is known to all.
  void share(const comm::Communicator& world);

 private:
  std::map<std::string, data::CorpusInfo> corpora_;
  std::map<std::string, ModelSource> models_;
  // To be shared, or shared.
  std::map<std::string, std::string> corpus_texts_;
  std::map<std::string, ModelSource::Texts> model_texts_;
};

/// Collective over world: runs step on rank 0, which fills the catalog, then on the others. Throws
/// as Communicator::together.
void read_once(Catalog& catalog, const comm::Communicator& world, std::string_view what,
               const std::function<void()>& step);

}  // namespace moesaic::checkpoint
