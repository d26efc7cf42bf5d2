#include "data/prompts.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"

namespace moesaic::data {
namespace {

// Documents of a part: few enough to lose little at a kill, also of a small corpus.
constexpr std::int64_t kPart = 256;
constexpr std::int64_t kFewestParts = 64;

}  // namespace

Prompts::Prompts(Corpora& corpora)
    : corpora_(corpora),
      eos_(corpora.info(0).eos_id),
      first_token_(corpora.info(0).bos_id >= 0 ? corpora.info(0).bos_id : eos_),
      first_({0}) {
  for (std::int64_t shard = 0; shard < corpora.shards(); ++shard) {
    first_.push_back(first_.back() + corpora.shard_info(shard).documents);
  }
  part_size_ = std::clamp<std::int64_t>((documents() + kFewestParts - 1) / kFewestParts, 1, kPart);
}

std::int64_t Prompts::parts() const {
  return std::max<std::int64_t>(1, (documents() + part_size_ - 1) / part_size_);
}

std::int64_t Prompts::documents_of(std::int64_t part) const {
  return std::min(part_size_, documents() - part * part_size_);
}

Prompts::Location Prompts::location_of(std::int64_t document) const {
  const auto after = std::upper_bound(first_.begin(), first_.end(), document);
  const std::int64_t shard = after - first_.begin() - 1;
  return {shard, document - first_[static_cast<std::size_t>(shard)]};
}

const ShardDocuments& Prompts::table(std::int64_t shard) {
  if (held_ != shard) {
    table_ = corpora_.documents(shard);
    held_ = shard;
  }
  return table_;
}

Prompts::PromptSize Prompts::size_of(const Location& location) {
  const ShardDocuments& documents = table(location.shard);
  const auto d = static_cast<std::size_t>(location.document);
  const std::int64_t all = documents.offsets[d + 1] - documents.offsets[d];
  std::int64_t given = documents.context[d];
  if (documents.spans.exist()) {
    const auto spans = documents.spans.of(d);
    given = spans.empty() ? all : spans.back().begin;
  }
  return {given > 0 ? given : all, given == 0};
}

std::vector<std::int64_t> Prompts::lengths(std::int64_t part) {
  std::vector<std::int64_t> lengths;
  for (std::int64_t i = 0; i < documents_of(part); ++i) {
    const PromptSize size = size_of(location_of(part * part_size_ + i));
    const std::int64_t end = size.whole && eos_ >= 0 ? 1 : 0;
    lengths.push_back(std::max<std::int64_t>(1, size.tokens - end));
  }
  return lengths;
}

std::vector<Prompt> Prompts::read(std::int64_t part) {
  std::vector<Prompt> prompts;
  for (std::int64_t i = 0; i < documents_of(part); ++i) {
    Prompt prompt;
    prompt.document = part * part_size_ + i;
    const Location location = location_of(prompt.document);
    const PromptSize size = size_of(location);
    const auto d = static_cast<std::size_t>(location.document);
    prompt.id = table_.id.at(d);
    prompt.task = table_.task[d];
    if (size.tokens > 0) {
      // A window is read with the token that it predicts last.
      prompt.tokens = corpora_.tokens(location.shard, {{location.document, 0, size.tokens - 1, 0}},
                                      table_.offsets);
    }
    if (size.whole && !prompt.tokens.empty() && prompt.tokens.back() == eos_) {
      prompt.tokens.pop_back();
    }
    if (prompt.tokens.empty()) {
      if (first_token_ < 0) {
        throw Error(Exit::kBadData,
                    fmt::format("{}: document {} is empty, and the vocabulary has neither bos nor "
                                "eos to begin with: leave it out",
                                corpora_.shard_info(location.shard).file.string(), prompt.id));
      }
      prompt.tokens.push_back(static_cast<std::int32_t>(first_token_));
    }
    prompts.push_back(std::move(prompt));
  }
  return prompts;
}

}  // namespace moesaic::data
