#include "data/corpora.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"

namespace moesaic::data {
namespace {

std::string vocabulary_of(const CorpusInfo& info) {
  return fmt::format("{} ({} tokens{})",
                     (info.manifest.empty() ? info.shards.front().file : info.manifest).string(),
                     info.vocab_size,
                     info.vocab_sha256.empty() ? "" : ", " + info.vocab_sha256.substr(0, 8));
}

// An empty hash is unknown: bare shards have none.
void check_same_vocabulary(const CorpusInfo& a, const CorpusInfo& b) {
  const bool unknown = a.vocab_sha256.empty() || b.vocab_sha256.empty();
  if (a.vocab_size != b.vocab_size || (!unknown && a.vocab_sha256 != b.vocab_sha256)) {
    throw Error(Exit::kBadData,
                fmt::format("{} and {} have different vocabularies: tokenize both with one "
                            "tokenizer (tokenize.tokenizer = the first one's file)",
                            vocabulary_of(a), vocabulary_of(b)));
  }
}

}  // namespace

Corpora Corpora::open(std::vector<CorpusInfo> corpora) {
  Corpora all;
  for (CorpusInfo& info : corpora) {
    const std::size_t corpus = all.corpora_.size();
    all.corpora_.push_back(Corpus(std::move(info)));
    check_same_vocabulary(all.info(0), all.info(corpus));
    std::int64_t begin = 0;
    std::int64_t number = 0;
    for (const ShardInfo& shard : all.info(corpus).shards) {
      all.shards_.push_back({.corpus = corpus, .shard = number++, .begin = begin});
      begin += shard.tokens;
    }
  }
  return all;
}

void Corpora::check_vocabulary_of(const Corpora& others) const {
  for (const Corpus& other : others.corpora_) {
    check_same_vocabulary(corpora_.front().info(), other.info());
  }
}

std::vector<std::string> Corpora::names() const {
  std::vector<std::string> names;
  for (const Corpus& corpus : corpora_) {
    std::string name = corpus.info().name;
    std::filesystem::path folder = corpus.info().manifest.parent_path();
    const auto is_taken = [&] {
      return std::find(names.begin(), names.end(), name) != names.end();
    };
    while (is_taken() && folder.has_filename()) {
      name = fmt::format("{}/{}", folder.filename().string(), name);
      folder = folder.parent_path();
    }
    for (int number = 2; is_taken(); ++number) {
      name = fmt::format("{}.{}", corpus.info().name, number);
    }
    names.push_back(name);
  }
  return names;
}

std::int64_t Corpora::tokens() const {
  std::int64_t total = 0;
  for (const Corpus& corpus : corpora_) {
    total += corpus.info().tokens;
  }
  return total;
}

std::int64_t Corpora::vocab_size() const {
  return corpora_.empty() ? 0 : corpora_.front().info().vocab_size;
}

std::string Corpora::vocab_sha256() const {
  return corpora_.empty() ? "" : corpora_.front().info().vocab_sha256;
}

void Corpora::join_tasks(std::vector<std::string>& names) {
  task_numbers_.clear();
  for (const Corpus& corpus : corpora_) {
    std::vector<std::uint8_t> numbers = data::join_tasks(corpus.info(), names);
    if (numbers.empty()) {
      numbers.push_back(0);
    }
    task_numbers_.push_back(std::move(numbers));
  }
  tasks_ = names;
}

const ShardInfo& Corpora::shard_info(std::int64_t number) const {
  const Shard& place = shard(number);
  return info(place.corpus).shards[static_cast<std::size_t>(place.shard)];
}

ShardDocuments Corpora::documents(std::int64_t shard) {
  const Shard& place = this->shard(shard);
  ShardDocuments table = corpora_[place.corpus].documents(place.shard);
  for (std::uint8_t& task : table.task) {
    task = joint_task(place.corpus, task);
  }
  return table;
}

const ShardDocuments& Corpora::document_table(std::int64_t shard) {
  const Shard& place = this->shard(shard);
  return corpora_[place.corpus].document_table(place.shard);
}

std::vector<std::uint8_t> Corpora::repeated_contexts(std::int64_t shard,
                                                     const ShardDocuments& documents) {
  const Shard& place = this->shard(shard);
  std::vector<std::uint8_t> repeated(documents.context.size(), 0);
  std::vector<std::int32_t> before;  // the last context that was read
  std::size_t read = repeated.size();
  const auto context_of = [&](std::size_t d) {
    return corpora_[place.corpus].shard_tokens(place.shard, documents.offsets[d],
                                               documents.context[d]);
  };
  for (std::size_t d = 1; d < repeated.size(); ++d) {
    const std::int64_t context = documents.context[d];
    if (context < 2 || context != documents.context[d - 1] ||
        documents.task[d] != documents.task[d - 1]) {
      continue;
    }
    if (read != d - 1) {
      before = context_of(d - 1);
    }
    std::vector<std::int32_t> here = context_of(d);
    repeated[d] = here == before ? 1 : 0;
    before = std::move(here);
    read = d;
  }
  return repeated;
}

std::vector<std::int32_t> Corpora::tokens(std::int64_t shard, const WindowBatch& windows,
                                          const std::vector<std::int64_t>& offsets) {
  std::vector<std::int32_t> all;
  if (windows.empty()) {
    return all;
  }
  const Shard& place = this->shard(shard);
  const auto begin_of = [&](const Window& w) {
    return offsets[static_cast<std::size_t>(w.document)] + w.begin;
  };
  // One read for neighbours; a new one after a gap of tokens that nobody wants.
  constexpr std::int64_t kGap = 1024;
  std::vector<std::int32_t> block;
  std::int64_t block_begin = 0;
  for (std::size_t first = 0; first < windows.size();) {
    block_begin = begin_of(windows[first]);
    std::int64_t end = block_begin;
    std::size_t after = first;
    while (after < windows.size() && begin_of(windows[after]) <= end + kGap) {
      end = std::max(end, begin_of(windows[after]) + windows[after].size + 1);
      ++after;
    }
    block = corpora_[place.corpus].shard_tokens(place.shard, block_begin, end - block_begin);
    for (; first < after; ++first) {
      const auto from = block.begin() + (begin_of(windows[first]) - block_begin);
      all.insert(all.end(), from, from + windows[first].size + 1);
    }
  }
  return all;
}

}  // namespace moesaic::data
