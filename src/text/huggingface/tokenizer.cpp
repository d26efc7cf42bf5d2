#include "text/huggingface/tokenizer.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "base/json.h"
#include "base/utf8.h"
#include "text/huggingface/token_lengths.h"

namespace moesaic::text {
namespace {

constexpr int kMostDepth = 33;  // of objects and lists; a tokenizer.json has about 6

Vocabulary checked_vocabulary(const Json& file, const std::string& name) {
  Vocabulary vocabulary = read_vocabulary(file, name);
  std::int64_t size = std::ssize(vocabulary.tokens);
  for (const AddedToken& token : vocabulary.added) {
    size = std::max<std::int64_t>(size, token.id + 1);
  }
  if (vocabulary.eos_id >= size || vocabulary.bos_id >= size) {
    throw Error(Exit::kBadData, fmt::format("{}: eos {} or bos {} is not in the vocabulary of {}",
                                            name, vocabulary.eos_id, vocabulary.bos_id, size));
  }
  return vocabulary;
}

}  // namespace

Json parse_tokenizer_json(const std::string& content, const std::string& name) {
  try {
    return Json::parse(content, {.most_depth = kMostDepth});
  } catch (const JsonError& problem) {
    throw Error(Exit::kBadData, fmt::format("{} is no tokenizer.json: {}", name, problem.what()));
  }
}

HuggingFaceTokenizer::HuggingFaceTokenizer(const std::string& content, const std::string& name)
    : HuggingFaceTokenizer(parse_tokenizer_json(content, name), name) {}

HuggingFaceTokenizer::HuggingFaceTokenizer(const Json& file, const std::string& name)
    : HuggingFaceTokenizer(file, checked_vocabulary(file, name), name) {}

HuggingFaceTokenizer::HuggingFaceTokenizer(const Json& file, Vocabulary vocabulary,
                                           const std::string& name)
    : words_(read_pre_tokenizer(file, name)),
      normalizer_(read_normalizer(file, name)),
      decoder_(read_decoder(file, name)),
      eos_id_(vocabulary.eos_id),
      bos_id_(vocabulary.bos_id),
      model_(read_model(file, vocabulary, words_.byte_level, name)) {
  take_texts(std::move(vocabulary));
}

void HuggingFaceTokenizer::take_texts(Vocabulary vocabulary) {
  texts_ = std::move(vocabulary.tokens);
  skipped_.resize(texts_.size());
  std::vector<AddedToken> raw;
  std::vector<AddedToken> normalized;
  for (AddedToken& token : vocabulary.added) {
    const auto id = static_cast<std::size_t>(token.id);
    if (id >= texts_.size()) {
      texts_.resize(id + 1);
      skipped_.resize(id + 1);
    }
    skipped_[id] = token.special;
    if (token.normalized) {
      std::string storage;
      std::string_view content = token.content;
      normalize(normalizer_, content, storage);
      token.content = std::string(content);
    }
    texts_[id] = token.content;
    (token.normalized ? normalized : raw).push_back(std::move(token));
  }
  raw_added_ = AddedTokens(std::move(raw));
  normalized_added_ = AddedTokens(std::move(normalized));
}

void HuggingFaceTokenizer::encode(std::string_view text, std::vector<std::int32_t>& tokens) const {
  std::size_t valid = valid_prefix(text);
  if (valid < text.size() && !words_.byte_level) {
    encode_valid(with_replacements(text), tokens);
    return;
  }
  while (true) {
    encode_valid(text.substr(0, valid), tokens);
    text.remove_prefix(valid);
    if (text.empty()) {
      return;
    }
    encode_word(text.substr(0, 1), tokens);  // a byte that is no text
    text.remove_prefix(1);
    valid = valid_prefix(text);
  }
}

void HuggingFaceTokenizer::encode_valid(std::string_view text,
                                        std::vector<std::int32_t>& tokens) const {
  const char* const begin = text.data();
  raw_added_.split(text, [&](std::string_view part, std::int32_t id) {
    if (id >= 0) {
      tokens.push_back(id);
      return;
    }
    cut_part(
        part, part.data() == begin, [&](std::string_view word) { encode_word(word, tokens); },
        [&](std::string_view, std::int32_t added) { tokens.push_back(added); });
  });
}

template <class Word, class Added>
void HuggingFaceTokenizer::cut_part(std::string_view part, bool first, Word&& word,
                                    Added&& added) const {
  std::string storage;
  normalize(normalizer_, part, storage);
  const char* const begin = part.data();
  normalized_added_.split(part, [&](std::string_view piece, std::int32_t id) {
    if (id >= 0) {
      added(piece, id);
    } else {
      split({piece, first && piece.data() == begin}, words_.steps, 0, word);
    }
  });
}

void HuggingFaceTokenizer::encode_marked(std::string_view text, std::span<const TextRange> ranges,
                                         std::vector<std::int32_t>& tokens,
                                         std::vector<std::uint8_t>& inside) const {
  require(valid_prefix(text) == text.size(), "ranges of a text that is not UTF-8");
  raw_added_.split(text, [&](std::string_view part, std::int32_t id) {
    const std::int64_t begin = part.data() - text.data();
    const std::int64_t end = begin + std::ssize(part);
    if (id >= 0) {
      tokens.push_back(id);
      inside.push_back(overlaps(ranges, {begin, end}) ? 1 : 0);
      return;
    }
    std::vector<TextRange> here;
    for (const TextRange& range : ranges) {
      if (range.begin < end && range.end > begin) {
        here.push_back({std::max(range.begin, begin) - begin, std::min(range.end, end) - begin});
      }
    }
    mark_part(part, begin == 0, here, tokens, inside);
  });
}

/// Whether the words of a part together are the part.
bool HuggingFaceTokenizer::keeps_bytes(std::string_view part) const {
  std::string storage;
  std::string_view normalized = part;
  normalize(normalizer_, normalized, storage);
  return normalized == part &&
         std::all_of(words_.steps.begin(), words_.steps.end(), [](const SplitStep& step) {
           return step.mark == " " && step.prefix == Prefix::kNever &&
                  step.behaviour != Behaviour::kRemoved;
         });
}

/// Normalising and cutting into words may change the length of a text, but what lies before a place
/// in it becomes what lies before that place in the result. So each end of a range is found by
/// doing the same to the part before it.
void HuggingFaceTokenizer::mark_part(std::string_view part, bool first,
                                     std::span<const TextRange> ranges,
                                     std::vector<std::int32_t>& tokens,
                                     std::vector<std::uint8_t>& inside) const {
  const bool kept = keeps_bytes(part);
  const auto size_before = [&](std::int64_t end) {
    if (kept) {
      return end;
    }
    std::int64_t size = 0;
    cut_part(
        part.substr(0, static_cast<std::size_t>(end)), first,
        [&](std::string_view word) { size += std::ssize(word); },
        [&](std::string_view token, std::int32_t) { size += std::ssize(token); });
    return size;
  };
  std::vector<TextRange> changed;
  for (const TextRange& range : ranges) {
    changed.push_back({range.begin == 0 ? 0 : size_before(range.begin), size_before(range.end)});
  }
  std::int64_t at = 0;
  const auto add = [&](std::int64_t begin, std::int64_t end) {
    inside.push_back(overlaps(changed, {begin, end}) ? 1 : 0);
  };
  cut_part(
      part, first,
      [&](std::string_view word) {
        const std::size_t before = tokens.size();
        encode_word(word, tokens);
        std::int64_t begin = at;
        for (const std::size_t end :
             token_ends(word, std::span(tokens).subspan(before), texts_, words_.byte_level)) {
          add(begin, at + static_cast<std::int64_t>(end));
          begin = at + static_cast<std::int64_t>(end);
        }
        at += std::ssize(word);
      },
      [&](std::string_view token, std::int32_t id) {
        tokens.push_back(id);
        add(at, at + std::ssize(token));
        at += std::ssize(token);
      });
}

void HuggingFaceTokenizer::encode_word(std::string_view word,
                                       std::vector<std::int32_t>& tokens) const {
  std::visit([&](const auto& model) { model.encode(word, tokens); }, model_);
}

std::string HuggingFaceTokenizer::decode(std::span<const std::int32_t> tokens) const {
  std::vector<std::string> texts;
  for (const std::int32_t token : tokens) {
    if (!skipped_[static_cast<std::size_t>(token)]) {
      texts.push_back(texts_[static_cast<std::size_t>(token)]);
    }
  }
  return decoded(std::move(texts), decoder_);
}

}  // namespace moesaic::text
