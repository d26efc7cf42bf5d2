#include "data/build/publish.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "base/log.h"
#include "data/corpus/manifest.h"
#include "files/durable.h"

namespace moesaic::data {
namespace {

namespace fs = std::filesystem;

/// Whether the files of a corpus are where its manifest says, in their sizes. If not, they are made
/// again: equal text makes equal files.
bool is_whole(const fs::path& manifest) {
  try {
    const CorpusInfo info = read_corpus_manifest(manifest);
    check_shard_files(info);
    return info.tokenizer.empty() || fs::exists(info.tokenizer);
  } catch (const Error& error) {
    if (error.code() == Exit::kIoError) {
      throw;
    }
    log::warn(fmt::format("made again, from the same text: {}", error.what()));
    return false;
  }
}

}  // namespace

bool is_published(const std::vector<fs::path>& folders, const std::string& fingerprint) {
  std::size_t done = 0;
  for (const fs::path& folder : folders) {
    for (const fs::path& manifest : manifests_in(folder)) {
      if (read_corpus_manifest(manifest).fingerprint != fingerprint) {
        throw Error(Exit::kCannotCreate,
                    fmt::format("{} is a corpus made from other text or with other settings: "
                                "choose another tokenize.output, or remove that folder",
                                fs::absolute(manifest).string()));
      }
      done += is_whole(manifest) ? 1 : 0;
    }
  }
  return done == folders.size();
}

void prepare_folders(const std::vector<fs::path>& folders, const text::Tokenizer& tokenizer) {
  for (const fs::path& folder : folders) {
    files::make_folder(folder);
    if (!tokenizer.file_name().empty()) {
      files::write_whole(folder / tokenizer.file_name(), tokenizer.model());
    }
  }
}

std::vector<CorpusInfo> publish_manifests(const WriteRequest& request,
                                          std::vector<std::vector<ShardInfo>> shards,
                                          const std::string& fingerprint) {
  std::vector<CorpusInfo> corpora;
  for (std::size_t c = 0; c < shards.size(); ++c) {
    CorpusInfo info;
    info.name = request.name;
    info.manifest = request.folders[c] / (request.name + ".json");
    info.source_bytes = request.plan.corpora[c].bytes;
    info.vocab_size = request.tokenizer.vocab_size();
    info.vocab_sha256 = request.tokenizer.sha256();
    info.eos_id = request.tokenizer.eos_id();
    info.bos_id = request.tokenizer.bos_id();
    info.tokenizer = request.tokenizer.file_name();
    info.task_names = request.task_names;
    info.fingerprint = fingerprint;
    info.spans = request.spans;
    info.shards = std::move(shards[c]);
    for (const ShardInfo& shard : info.shards) {
      info.tokens += shard.tokens;
      info.documents += shard.documents;
      info.version = std::max(info.version, shard.version);
    }
    write_corpus_manifest(info);
    corpora.push_back(info);
  }
  return corpora;
}

}  // namespace moesaic::data
