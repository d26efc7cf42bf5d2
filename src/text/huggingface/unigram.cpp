#include "text/huggingface/unigram.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "base/error.h"
#include "base/utf8.h"
#include "text/huggingface/regex.h"
#include "text/token_bytes.h"

namespace moesaic::text {
namespace {

constexpr double kUnknownPenalty = 10;

}  // namespace

Unigram::Unigram(const std::vector<std::string>& tokens, std::vector<double> scores,
                 Options options)
    : options_(options), words_(tokens), scores_(std::move(scores)) {
  byte_.fill(-1);
  double least = std::numeric_limits<double>::infinity();
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    const std::string& word = tokens[i];
    const std::int32_t id = words_.find(word);  // of equal tokens the last
    least = std::min(least, scores_[i]);
    trie_.add(word, id);
    if (const auto byte = byte_of_token(word)) {
      byte_[*byte] = id;
    }
  }
  unk_score_ = least - kUnknownPenalty;
}

void Unigram::encode(std::string_view word, std::vector<std::int32_t>& tokens) const {
  struct Node {  // the best way to a place in the word
    double score = 0;
    std::size_t begin = std::string_view::npos;  // of its last token
    std::int32_t id = -1;
  };
  std::vector<Node> best(word.size() + 1);
  const auto offer = [&](std::size_t begin, std::size_t end, double score, std::int32_t id) {
    score += best[begin].score;
    if (best[end].begin == std::string_view::npos || score > best[end].score) {
      best[end] = {score, begin, id};
    }
  };
  for (std::size_t at = 0; at < word.size();) {
    const std::size_t length = utf8_length(word.substr(at));
    bool has_single = false;
    trie_.prefixes(word.substr(at), [&](std::size_t size, std::int32_t id) {
      offer(at, at + size, scores_[static_cast<std::size_t>(id)], id);
      has_single = has_single || size == length;
    });
    if (!has_single) {
      if (options_.unk < 0) {
        throw Error(Exit::kBadData, fmt::format("the tokenizer has neither a token nor an unknown "
                                                "for '{}'",
                                                word.substr(at, length)));
      }
      offer(at, at + length, unk_score_, options_.unk);
    }
    at += length;
  }
  std::vector<Span> spans;  // from the last to the first; neighbours that are unknown are one
  bool joins = false;
  for (std::size_t end = word.size(); end > 0; end = best[end].begin) {
    const bool unknown = options_.unk >= 0 && best[end].id == options_.unk;
    if (joins && unknown) {
      spans.back().begin = best[end].begin;
    } else {
      spans.push_back({best[end].begin, end});
    }
    joins = unknown;
  }
  for (auto span = spans.rbegin(); span != spans.rend(); ++span) {
    const std::string_view text = word.substr(span->begin, span->size());
    const std::int32_t id = words_.find(text);
    if (id >= 0) {
      tokens.push_back(id);
    } else {
      append_unknown(text, tokens);
    }
  }
}

void Unigram::append_unknown(std::string_view text, std::vector<std::int32_t>& tokens) const {
  const auto id_of = [&](char byte) { return byte_[static_cast<unsigned char>(byte)]; };
  const bool bytes =
      options_.byte_fallback &&
      std::all_of(text.begin(), text.end(), [&](char byte) { return id_of(byte) >= 0; });
  if (!bytes) {
    tokens.push_back(options_.unk);
    return;
  }
  for (const char byte : text) {
    tokens.push_back(id_of(byte));
  }
}

}  // namespace moesaic::text
