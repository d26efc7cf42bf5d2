#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "data/corpus/corpus.h"
#include "data/corpus/manifest.h"
#include "data/corpus/shard.h"
#include "files/durable.h"
#include "files/hdf5/thread.h"
#include "files/problems.h"

namespace moesaic::data {
namespace {

constexpr std::int64_t kBlockTokens = 1 << 20;

void verify_hash(const ShardInfo& shard, const CorpusInfo& info) {
  if (shard.sha256.empty()) {
    return;
  }
  const std::string actual = files::sha256_of_file(shard.file);
  if (actual != shard.sha256) {
    throw Error(Exit::kBadData, fmt::format("{}: sha256 is {}, but {} says {}; copy it again",
                                            std::filesystem::absolute(shard.file).string(), actual,
                                            info.manifest.filename().string(), shard.sha256));
  }
}

/// Every token (range, chunk checksums) and the content's own hash.
void verify_tokens(Corpus& corpus, std::int64_t index, const ShardInfo& shard) {
  Sha256 hash;
  for (std::int64_t begin = 0; begin < shard.tokens; begin += kBlockTokens) {
    hash_tokens(hash,
                corpus.shard_tokens(index, begin, std::min(kBlockTokens, shard.tokens - begin)));
  }
  const ShardReader reader(shard.file);
  if (!reader.has_content_sha256()) {
    return;
  }
  const ShardDocuments table = corpus.documents(index);
  hash_offsets(hash, table.offsets);
  hash_targets(hash, table.spans, table.group, table.weight);
  const std::string actual = hash.hex();
  if (actual != reader.content_sha256()) {
    throw Error(Exit::kBadData, fmt::format("{}: content_sha256 is {}, but its tokens and offsets "
                                            "hash to {}; copy it again",
                                            std::filesystem::absolute(shard.file).string(),
                                            reader.content_sha256(), actual));
  }
}

void verify_shards(Corpus& corpus, std::vector<std::string>& problems) {
  const CorpusInfo& info = corpus.info();
  for (std::size_t s = 0; s < info.shards.size(); ++s) {
    const auto index = static_cast<std::int64_t>(s);
    const std::size_t before = problems.size();
    files::note(problems, [&] { verify_hash(info.shards[s], info); });
    if (problems.size() > before) {
      continue;  // HDF5 1.10 may crash on damaged strings: the hash has said enough
    }
    files::note(problems, [&] { corpus.documents(index); });
    files::note(problems, [&] { verify_tokens(corpus, index, info.shards[s]); });
  }
}

/// Presence and sizes, each shard on its own line; true if the corpus can be opened.
bool verify_files(const std::filesystem::path& path, std::vector<std::string>& problems) {
  const bool folder = std::filesystem::is_directory(path);
  if (!folder && path.extension() != ".json") {
    return true;
  }
  const std::size_t before = problems.size();
  files::note(problems, [&] {
    const CorpusInfo info = folder ? read_corpus_in(path) : read_corpus_manifest(path);
    for (const ShardInfo& shard : info.shards) {
      files::note(problems, [&] { check_shard_file(info, shard); });
    }
    if (!info.tokenizer.empty()) {
      files::note(problems, [&] {
        const std::string actual = files::sha256_of_file(info.tokenizer);
        if (actual != info.vocab_sha256) {
          throw Error(Exit::kBadData,
                      fmt::format("{}: sha256 is {}, but {} says {}; copy it again",
                                  std::filesystem::absolute(info.tokenizer).string(), actual,
                                  info.manifest.filename().string(), info.vocab_sha256));
        }
      });
    }
  });
  return problems.size() == before;
}

}  // namespace

std::vector<std::string> verify_corpus(const std::filesystem::path& path) {
  std::vector<std::string> problems;
  if (verify_files(path, problems)) {
    files::note(problems, [&] {
      Corpus corpus = Corpus::open(path.string());
      files::hdf5_run([&] { verify_shards(corpus, problems); });
    });
  }
  // One damage is often met by several checks.
  std::vector<std::string> distinct;
  for (std::string& problem : problems) {
    if (std::find(distinct.begin(), distinct.end(), problem) == distinct.end()) {
      distinct.push_back(std::move(problem));
    }
  }
  return distinct;
}

}  // namespace moesaic::data
