#pragma once

#include <string>
#include <variant>
#include <vector>

#include "base/json.h"
#include "text/huggingface/added.h"
#include "text/huggingface/bpe.h"
#include "text/huggingface/decode.h"
#include "text/huggingface/normalize.h"
#include "text/huggingface/split.h"
#include "text/huggingface/unigram.h"

namespace moesaic::text {

// What a tokenizer.json says, part by part. All throw kBadData naming `name`, the file, for what is
// wrong or not supported; nothing that is not understood is passed over.

struct Vocabulary {
  std::vector<std::string> tokens;  // the model's, by id; empty where an id is not used
  std::vector<AddedToken> added;
  std::int64_t eos_id = -1, bos_id = -1;  // as with_marks wrote them
};

/// The key of "model" under which eos_id and bos_id stand. Other programs pass over it there.
constexpr const char* kMarksKey = "moesaic";

using TokenModel = std::variant<Bpe, Unigram>;

/// How words are made. byte_level: the last step turns words into bytes, written as GPT-2's
/// letters.
struct Words {
  std::vector<SplitStep> steps;
  bool byte_level = false;
};

/// Parses the content. Objects nested without end are refused.
Json parse_tokenizer_json(const std::string& content, const std::string& name);
std::vector<NormalizeStep> read_normalizer(const Json& file, const std::string& name);
Words read_pre_tokenizer(const Json& file, const std::string& name);
std::vector<DecodeStep> read_decoder(const Json& file, const std::string& name);
/// Tokens of the model and added ones, with the ids that the tokenizers package gives them.
Vocabulary read_vocabulary(const Json& file, const std::string& name);
TokenModel read_model(const Json& file, const Vocabulary& vocabulary, bool byte_level,
                      const std::string& name);

}  // namespace moesaic::text
