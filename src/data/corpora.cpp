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

Corpora Corpora::open(std::vector<CorpusInfo> corpora, std::int64_t seq_len) {
  Corpora all;
  all.seq_len_ = seq_len;
  for (CorpusInfo& corpus : corpora) {
    all.corpora_.push_back(Corpus(std::move(corpus)));
    check_same_vocabulary(all.corpora_.front().info(), all.corpora_.back().info());
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

std::vector<std::int64_t> Corpora::samples() const {
  std::vector<std::int64_t> counts;
  for (const Corpus& corpus : corpora_) {
    counts.push_back(std::max<std::int64_t>(0, corpus.info().tokens - 1) / seq_len_);
  }
  return counts;
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
}

std::vector<Corpora::ShardSamples> Corpora::shard_samples() const {
  std::vector<ShardSamples> all;
  const std::vector<std::int64_t> counts = samples();
  for (std::size_t c = 0; c < corpora_.size(); ++c) {
    const auto next_sample = [&](std::int64_t token) {
      return std::min((token + seq_len_ - 1) / seq_len_, counts[c]);
    };
    std::int64_t begin = 0;
    std::int64_t shard = 0;
    for (const ShardInfo& info : corpora_[c].info().shards) {
      const std::int64_t first = next_sample(begin);
      all.push_back({.corpus = c,
                     .shard = shard++,
                     .first = first,
                     .count = next_sample(begin + info.tokens) - first,
                     .offset = first * seq_len_ - begin});
      begin += info.tokens;
    }
  }
  return all;
}

std::vector<std::uint8_t> Corpora::sample_tasks(const ShardSamples& samples) {
  std::vector<std::uint8_t> tasks;
  if (samples.count == 0) {
    return tasks;
  }
  const ShardDocuments& table = corpora_[samples.corpus].document_table(samples.shard);
  std::vector<std::int64_t> tokens(
      std::max<std::size_t>(1, info(samples.corpus).task_names.size()));
  std::size_t first = 0;
  for (std::int64_t i = 0; i < samples.count; ++i) {
    const std::int64_t begin = samples.offset + i * seq_len_;
    const std::int64_t end = std::min(begin + seq_len_, table.offsets.back());
    while (table.offsets[first + 1] <= begin) {
      ++first;
    }
    std::fill(tokens.begin(), tokens.end(), 0);
    for (std::size_t d = first; d < table.task.size() && table.offsets[d] < end; ++d) {
      tokens[table.task[d]] +=
          std::min(end, table.offsets[d + 1]) - std::max(begin, table.offsets[d]);
    }
    const auto most = std::max_element(tokens.begin(), tokens.end());
    tasks.push_back(static_cast<std::uint8_t>(most - tokens.begin()));
  }
  return tasks;
}

bool Corpora::has_target(const SampleLocation& location) {
  const std::int64_t first = location.index * seq_len_;
  const TokenSpan span = corpora_[location.corpus].read(first, seq_len_ + 1);
  for (std::size_t i = 0; i < static_cast<std::size_t>(seq_len_); ++i) {
    if (span.target[i + 1] != 0) {
      return true;
    }
  }
  return false;
}

Sample Corpora::read(const SampleLocation& location) {
  const std::int64_t first = location.index * seq_len_;
  const TokenSpan span = corpora_[location.corpus].read(first, seq_len_ + 1);
  const std::vector<std::uint8_t>& task_numbers = task_numbers_[location.corpus];
  Sample sample;
  sample.corpus = location.corpus;
  for (std::size_t i = 0; i < static_cast<std::size_t>(seq_len_); ++i) {
    sample.token.push_back(span.token[i]);
    sample.target.push_back(span.target[i + 1] != 0 ? span.token[i + 1] : -1);
    sample.begin.push_back(
        static_cast<std::int32_t>(std::max<std::int64_t>(0, span.document_begin[i] - first)));
    sample.task.push_back(task_numbers[span.task[i]]);
    sample.document.push_back(span.document[i]);
    sample.position.push_back(first + static_cast<std::int64_t>(i) - span.document_begin[i]);
  }
  return sample;
}

MicroBatch micro_batch_of(const std::vector<Sample>& samples) {
  MicroBatch batch;
  for (const Sample& sample : samples) {
    const auto base = static_cast<std::int32_t>(batch.size());
    const std::int32_t number = batch.sample.empty() ? 0 : batch.sample.back() + 1;
    batch.sample.insert(batch.sample.end(), sample.token.size(), number);
    batch.token.insert(batch.token.end(), sample.token.begin(), sample.token.end());
    batch.target.insert(batch.target.end(), sample.target.begin(), sample.target.end());
    batch.task.insert(batch.task.end(), sample.task.begin(), sample.task.end());
    for (std::size_t i = 0; i < sample.token.size(); ++i) {
      batch.position.push_back(static_cast<std::int32_t>(i) - sample.begin[i]);
      batch.first_key.push_back(base + sample.begin[i]);
    }
  }
  return batch;
}

routing::TokenRows token_rows_of(const std::vector<Sample>& samples, std::int64_t first) {
  routing::TokenRows rows;
  rows.first = first;
  for (const Sample& sample : samples) {
    rows.token.insert(rows.token.end(), sample.token.begin(), sample.token.end());
    rows.task.insert(rows.task.end(), sample.task.begin(), sample.task.end());
    rows.document.insert(rows.document.end(), sample.document.begin(), sample.document.end());
    rows.position.insert(rows.position.end(), sample.position.begin(), sample.position.end());
    rows.corpus.resize(rows.token.size(), static_cast<std::uint16_t>(sample.corpus));
  }
  return rows;
}

}  // namespace moesaic::data
