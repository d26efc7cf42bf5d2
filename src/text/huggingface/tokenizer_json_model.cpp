// Model and added tokens of a tokenizer.json.
#include <algorithm>
#include <unordered_map>
#include <unordered_set>

#include "text/huggingface/fields.h"
#include "text/huggingface/tokenizer_json.h"

namespace moesaic::text {
namespace {

constexpr std::int64_t kMostIds = std::int64_t{1} << 21U;  // 8 times the largest in use

using Ids = std::unordered_map<std::string_view, std::int32_t>;

std::string type_of(const JsonPart& model) {
  if (model.has("type")) {
    return model.text("type");
  }
  return model.has("merges") ? "BPE" : "Unigram";  // files of old versions
}

void read_bpe_tokens(const JsonPart& model, Vocabulary& vocabulary) {
  const Json& vocab = model.member("vocab");
  if (!vocab.is_object()) {
    model.fail("'vocab' is no object");
  }
  std::vector<bool> used;
  for (const auto& [token, value] : vocab.items()) {
    if (!value.is_integer_in(0, kMostIds - 1)) {
      model.fail(fmt::format("the id of '{}' is no integer from 0 to {}", token, kMostIds - 1));
    }
    const auto id = value.get<std::size_t>();
    if (id >= vocabulary.tokens.size()) {
      vocabulary.tokens.resize(id + 1);
      used.resize(id + 1);
    }
    if (used[id]) {
      model.fail(
          fmt::format("id {} has two tokens, '{}' and '{}'", id, vocabulary.tokens[id], token));
    }
    used[id] = true;
    vocabulary.tokens[id] = token;
  }
}

const Json& unigram_vocab(const JsonPart& model) {
  const Json& vocab = model.member("vocab");
  if (!vocab.is_array() || vocab.empty() || std::ssize(vocab) > kMostIds) {
    model.fail(fmt::format("'vocab' is no list of 1 to {} tokens", kMostIds));
  }
  for (const Json& entry : vocab) {
    if (!entry.is_array() || entry.size() != 2 || !entry[0].is_string() || !entry[1].is_number()) {
      model.fail("'vocab' has an entry that is not [token, score]");
    }
  }
  return vocab;
}

Ids ids_of(const Vocabulary& vocabulary) {
  Ids ids;
  for (std::size_t i = 0; i < vocabulary.tokens.size(); ++i) {
    if (!vocabulary.tokens[i].empty()) {
      ids[vocabulary.tokens[i]] = static_cast<std::int32_t>(i);
    }
  }
  return ids;
}

/// The tokenizers package gives a token that the model has the model's id, and others the ids that
/// follow the model's, whatever the file says. A file that says another thing is refused.
void read_added(const JsonPart& part, std::int64_t model_tokens, Vocabulary& vocabulary) {
  if (part.value.is_null()) {
    return;
  }
  if (!part.value.is_array() || std::ssize(part.value) > kMostIds) {
    part.fail("it is no list");
  }
  Ids ids = ids_of(vocabulary);
  std::unordered_set<std::int64_t> seen;
  std::int64_t next = model_tokens;
  for (const Json& entry : part.value) {
    const JsonPart one = part.at(entry);
    AddedToken token;
    token.content = one.text("content");
    token.id = static_cast<std::int32_t>(one.number("id", 0, kMostIds - 1));
    token.special = one.flag("special", false);
    token.single_word = one.flag("single_word", false);
    token.lstrip = one.flag("lstrip", false);
    token.rstrip = one.flag("rstrip", false);
    token.normalized = one.flag("normalized", !token.special);
    const auto known = ids.find(token.content);
    const std::int64_t expected = known == ids.end() ? next : known->second;
    if (token.content.empty() || token.id != expected || !seen.insert(token.id).second) {
      part.fail(
          fmt::format("token '{}' has the id {}, where the tokenizers package would give it "
                      "{}, or it is there twice",
                      token.content, token.id, expected));
    }
    next = std::max<std::int64_t>(next, token.id + 1);
    vocabulary.added.push_back(std::move(token));
  }
}

std::vector<Bpe::Merge> read_merges(const JsonPart& model, const Vocabulary& vocabulary) {
  const Ids ids = ids_of(vocabulary);
  const auto id_of = [&](std::string_view token) {
    const auto found = ids.find(token);
    if (found == ids.end()) {
      model.fail(fmt::format("a merge needs the token '{}', which 'vocab' lacks", token));
    }
    return found->second;
  };
  const Json& merges = model.member("merges");
  if (!merges.is_array() || std::ssize(merges) >= kMostIds) {
    model.fail(fmt::format("'merges' is no list of less than {}", kMostIds));
  }
  std::vector<Bpe::Merge> read;
  for (const Json& merge : merges) {
    std::string left;
    std::string right;
    if (merge.is_string()) {
      const auto& text = merge.string();
      const std::size_t space = text.find(' ');
      if (text.starts_with("#version")) {
        continue;
      }
      if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos) {
        model.fail(fmt::format("the merge '{}' is not two tokens", text));
      }
      left = text.substr(0, space);
      right = text.substr(space + 1);
    } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() &&
               merge[1].is_string()) {
      left = merge[0].string();
      right = merge[1].string();
    } else {
      model.fail("a merge is neither \"A B\" nor [\"A\", \"B\"]");
    }
    read.push_back({id_of(left), id_of(right), id_of(left + right)});
  }
  return read;
}

Bpe read_bpe(const JsonPart& model, const Vocabulary& vocabulary, bool byte_level) {
  for (const char* const key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    if (!model.text_or(key, "").empty()) {
      model.fail(fmt::format("'{}' is not supported", key));
    }
  }
  if (model.has("dropout") && model.value["dropout"] != 0) {
    model.fail("'dropout' is on: the same text would not give the same tokens; set it to null");
  }
  Bpe::Options options;
  options.byte_level = byte_level;
  options.byte_fallback = model.flag("byte_fallback", false);
  options.fuse_unk = model.flag("fuse_unk", false);
  options.ignore_merges = model.flag("ignore_merges", false);
  if (model.has("unk_token")) {
    const std::string unk = model.text("unk_token");
    const auto found = std::find(vocabulary.tokens.begin(), vocabulary.tokens.end(), unk);
    if (unk.empty() || found == vocabulary.tokens.end()) {
      model.fail(fmt::format("unk_token '{}' is not in 'vocab'", unk));
    }
    options.unk = static_cast<std::int32_t>(found - vocabulary.tokens.begin());
  }
  if (byte_level && options.byte_fallback) {
    model.fail("'byte_fallback' together with ByteLevel is not supported");
  }
  return {vocabulary.tokens, read_merges(model, vocabulary), options};
}

Unigram read_unigram(const JsonPart& model, const Vocabulary& vocabulary, bool byte_level) {
  if (byte_level) {
    model.fail("a Unigram model after ByteLevel is not supported");
  }
  std::vector<double> scores;
  for (const Json& entry : unigram_vocab(model)) {
    scores.push_back(entry[1].get<double>());
  }
  Unigram::Options options;
  options.byte_fallback = model.flag("byte_fallback", false);
  if (model.has("unk_id")) {
    options.unk = static_cast<std::int32_t>(model.number("unk_id", 0, std::ssize(scores) - 1));
  }
  return {vocabulary.tokens, std::move(scores), options};
}

}  // namespace

Vocabulary read_vocabulary(const Json& file, const std::string& name) {
  static const Json nothing;
  if (!file.is_object()) {
    throw Error(Exit::kBadData, fmt::format("{} is no tokenizer.json: it is no object", name));
  }
  const JsonPart model{file.contains("model") ? file["model"] : nothing, name, "model"};
  const std::string type = type_of(model);
  Vocabulary vocabulary;
  std::int64_t model_tokens = 0;
  if (type == "BPE") {
    read_bpe_tokens(model, vocabulary);
    model_tokens = std::ssize(model.value["vocab"]);
  } else if (type == "Unigram") {
    for (const Json& entry : unigram_vocab(model)) {
      vocabulary.tokens.push_back(entry[0].string());
    }
    model_tokens = std::ssize(vocabulary.tokens);
  } else {
    model.fail(fmt::format("the type '{}' is not supported; BPE and Unigram are", type));
  }
  read_added({file.contains("added_tokens") ? file["added_tokens"] : nothing, name, "added_tokens"},
             model_tokens, vocabulary);
  if (model.has(kMarksKey)) {
    const JsonPart marks = model.at(model.value[kMarksKey]);
    vocabulary.eos_id = marks.number("eos_id", -1, kMostIds - 1);
    vocabulary.bos_id = marks.number("bos_id", -1, kMostIds - 1);
  }
  return vocabulary;
}

TokenModel read_model(const Json& file, const Vocabulary& vocabulary, bool byte_level,
                      const std::string& name) {
  const JsonPart model{file["model"], name, "model"};
  if (type_of(model) == "BPE") {
    return read_bpe(model, vocabulary, byte_level);
  }
  return read_unigram(model, vocabulary, byte_level);
}

}  // namespace moesaic::text
