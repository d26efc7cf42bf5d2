#include "data/score_corpora.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"

namespace moesaic::data {

ScoreCorpora ScoreCorpora::open(std::vector<CorpusInfo> corpora,
                                const std::vector<std::string>& tasks) {
  ScoreCorpora all;
  all.tasks_ = tasks;
  for (CorpusInfo& corpus : corpora) {
    all.add(Corpus(std::move(corpus)));
  }
  return all;
}

void ScoreCorpora::add(Corpus corpus) {
  const CorpusInfo& info = corpus.info();
  if (!corpora_.empty() &&
      (info.vocab_sha256 != first().vocab_sha256 || info.vocab_size != first().vocab_size)) {
    throw Error(Exit::kBadData,
                fmt::format("data.corpus: {} has the vocabulary {} of {} tokens, {} has {} of {}: "
                            "score them one by one, or tokenize both alike",
                            first().name, first().vocab_sha256, first().vocab_size, info.name,
                            info.vocab_sha256, info.vocab_size));
  }
  joined_task_.push_back(join_tasks(info, tasks_));
  for (std::int64_t shard = 0; shard < std::ssize(info.shards); ++shard) {
    shards_.push_back({corpora_.size(), shard});
  }
  corpora_.push_back(std::move(corpus));
}

const ShardInfo& ScoreCorpora::info(std::int64_t shard) const {
  const Location& location = shards_.at(static_cast<std::size_t>(shard));
  return corpora_[location.corpus].info().shards[static_cast<std::size_t>(location.shard)];
}

std::vector<std::string> ScoreCorpora::names() const {
  std::vector<std::string> names;
  for (const Corpus& corpus : corpora_) {
    names.push_back(corpus.info().name);
  }
  return names;
}

ShardDocuments ScoreCorpora::documents(std::int64_t shard) {
  const Location& location = shards_.at(static_cast<std::size_t>(shard));
  ShardDocuments table = corpora_[location.corpus].documents(location.shard);
  for (std::uint8_t& task : table.task) {
    task = joined_task_[location.corpus].at(task);
  }
  return table;
}

std::vector<std::uint8_t> ScoreCorpora::repeated_contexts(std::int64_t shard,
                                                          const ShardDocuments& documents) {
  const Location& location = shards_.at(static_cast<std::size_t>(shard));
  std::vector<std::uint8_t> repeated(documents.context.size(), 0);
  std::vector<std::int32_t> before;  // the last context that was read
  std::size_t read = repeated.size();
  const auto context_of = [&](std::size_t d) {
    return corpora_[location.corpus].shard_tokens(location.shard, documents.offsets[d],
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

std::vector<std::int32_t> ScoreCorpora::tokens(std::int64_t shard, const WindowBatch& windows,
                                               const std::vector<std::int64_t>& offsets) {
  std::vector<std::int32_t> all;
  if (windows.empty()) {
    return all;
  }
  const Location& location = shards_.at(static_cast<std::size_t>(shard));
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
    block = corpora_[location.corpus].shard_tokens(location.shard, block_begin, end - block_begin);
    for (; first < after; ++first) {
      const auto from = block.begin() + (begin_of(windows[first]) - block_begin);
      all.insert(all.end(), from, from + windows[first].size + 1);
    }
  }
  return all;
}

}  // namespace moesaic::data
