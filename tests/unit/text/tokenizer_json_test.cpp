// A tokenizer.json gives the tokens that the tokenizers package gives.
#include <gtest/gtest.h>

#include <array>
#include <nlohmann/json.hpp>
#include <random>
#include <thread>

#include "base/error.h"
#include "base/utf8.h"
#include "data/corpus/corpus_tokenizer.h"
#include "support/temp_dir.h"
#include "text/tokenizer.h"

namespace moesaic::text {
namespace {

using ::moesaic::testing::read_file;
using ::moesaic::testing::TempDir;
using ::moesaic::testing::write_file;
using nlohmann::json;

std::string golden(const std::string& name) {
  return read_file(std::string(MOESAIC_GOLDEN_DIR) + "/tokenizers/" + name + ".json");
}

const json& expected() {
  static const json content = json::parse(golden("expected"));
  return content;
}

/// The content of a tokenizer.json of expected.json: a file, or one that a patch changes.
std::string content_of(const std::string& name) {
  const json& variants = expected()["variants"];
  if (!variants.contains(name)) {
    return golden(name);
  }
  json file = json::parse(golden(variants[name]["file"]));
  file.merge_patch(variants[name]["patch"]);
  return file.dump();
}

std::vector<std::string> names() {
  std::vector<std::string> all;
  for (const auto& [name, tokens] : expected()["tokens"].items()) {
    all.push_back(name);
  }
  return all;
}

class Golden : public ::testing::TestWithParam<std::string> {};

// Every family and every setting: tokens and decoded text are those of the package, but for bytes
// that are not UTF-8, which stay where the package writes U+FFFD.
TEST_P(Golden, EncodesAndDecodes) {
  const std::string name = GetParam();
  const Tokenizer tokenizer = Tokenizer::from_model(content_of(name), name);
  const json& texts = expected()["texts"];
  for (std::size_t i = 0; i < texts.size(); ++i) {
    const auto text = texts[i].get<std::string>();
    const auto tokens = expected()["tokens"][name][i].get<std::vector<std::int32_t>>();
    EXPECT_EQ(tokenizer.encode(text), tokens) << name << " of text " << i << ": " << texts[i];
    EXPECT_EQ(with_replacements(tokenizer.decode(tokens)),
              expected()["decoded"][name][i].get<std::string>())
        << name << " of text " << i;
  }
}
INSTANTIATE_TEST_SUITE_P(Tokenizers, Golden, ::testing::ValuesIn(names()),
                         [](const auto& one) { return one.param; });

// Which tokens have a character of a span: those of the package's offsets, through normalisers,
// marks for spaces, added tokens and bytes of one character.
TEST(Marked, AgreesWithOffsets) {
  const json marks = json::parse(read_file(std::string(MOESAIC_GOLDEN_DIR) + "/chat/marks.json"));
  for (const auto& [name, masks] : marks["masks"].items()) {
    const Tokenizer tokenizer = Tokenizer::from_model(golden(name), name);
    for (std::size_t i = 0; i < masks.size(); ++i) {
      const auto text = marks["rows"][i]["text"].get<std::string>();
      std::vector<std::int64_t> byte_of;  // of each character, and the end
      for (std::size_t at = 0; at < text.size(); at += utf8_length(text.substr(at))) {
        byte_of.push_back(static_cast<std::int64_t>(at));
      }
      byte_of.push_back(std::ssize(text));
      std::vector<TextRange> ranges;
      for (const json& span : marks["rows"][i]["spans"]) {
        ranges.push_back(
            {byte_of[span[0].get<std::size_t>()], byte_of[span[1].get<std::size_t>()]});
      }
      const Tokenizer::Marked marked = tokenizer.encode_marked(text, ranges);
      EXPECT_EQ(marked.tokens, tokenizer.encode(text)) << name << ": " << text;
      std::string mask;
      for (const std::uint8_t inside : marked.inside) {
        mask += inside != 0 ? '1' : '0';
      }
      EXPECT_EQ(mask, masks[i].get<std::string>()) << name << ", row " << i << ": " << text;
    }
  }
}

std::string random_bytes(std::mt19937& random, std::size_t size) {
  const std::vector<std::string> parts = {" ",        "a",  "don't",   "\n", "12", "\xE4\xBD\xA0",
                                          "\xCC\x81", "<|", "\xF0\x9F"};
  std::string bytes;
  while (bytes.size() < size) {
    if (random() % 2 == 0) {
      bytes += parts[random() % parts.size()];
    } else {
      bytes += static_cast<char>(random() % 256);
    }
  }
  return bytes;
}

// Byte-level vocabularies without a normaliser lose nothing, even of bytes that are no text.
TEST(ByteLevel, IsLossless) {
  std::mt19937 random(11);
  for (const std::string name : {"gpt2", "llama3", "gpt_oss", "deepseek_v3"}) {
    const Tokenizer tokenizer = Tokenizer::from_model(content_of(name), name);
    for (int i = 0; i < 200; ++i) {
      const std::string text = random_bytes(random, random() % 300);
      EXPECT_EQ(tokenizer.decode(tokenizer.encode(text)), text) << name;
    }
  }
}

// Elsewhere bad bytes become U+FFFD, and any bytes can be encoded.
TEST(OtherVocabularies, ReplaceBadBytes) {
  std::mt19937 random(12);
  for (const std::string& name : names()) {
    if (content_of(name).find("ByteLevel") != std::string::npos) {
      continue;
    }
    const Tokenizer tokenizer = Tokenizer::from_model(content_of(name), name);
    for (int i = 0; i < 50; ++i) {
      const std::string text = random_bytes(random, random() % 300);
      EXPECT_EQ(tokenizer.encode(text), tokenizer.encode(with_replacements(text))) << name;
    }
  }
}

// Many threads may encode at once.
TEST(ByteLevel, IsSafeForThreads) {
  const Tokenizer tokenizer = Tokenizer::from_model(content_of("qwen2"), "qwen2");
  const json& texts = expected()["texts"];
  const json& tokens = expected()["tokens"]["qwen2"];
  std::array<std::size_t, 4> wrong{};
  std::vector<std::thread> threads;
  for (std::size_t& count : wrong) {
    threads.emplace_back([&] {
      for (std::size_t i = 0; i < texts.size(); ++i) {
        const auto text = texts[i].get<std::string>();
        count += tokenizer.encode(text) == tokens[i].get<std::vector<std::int32_t>>() ? 0 : 1;
      }
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  EXPECT_EQ(wrong, (std::array<std::size_t, 4>{}));
}

// One U+FFFD for each beginning of a character, as Python's errors="replace".
TEST(Utf8, ReplacesBrokenCharacters) {
  const std::string mark = "\xEF\xBF\xBD";
  EXPECT_EQ(with_replacements("a\xE2\x82z"), "a" + mark + "z");
  EXPECT_EQ(with_replacements("\xF0\x9F\x98"), mark);
  EXPECT_EQ(with_replacements("\xFF\xFE"), mark + mark);
  EXPECT_EQ(with_replacements("\xED\xA0\x80"), mark + mark + mark);  // a surrogate
  EXPECT_EQ(with_replacements("\xC3\xA9"), "\xC3\xA9");
}

// A long word takes a heap, not the square of its length.
TEST(Bpe, MergesLongWords) {
  const Tokenizer tokenizer = Tokenizer::from_model(content_of("gpt2"), "gpt2");
  std::string word;
  while (word.size() < 300'000) {
    word += "the";
  }
  const auto tokens = tokenizer.encode(word);
  EXPECT_LT(tokens.size(), word.size());
  EXPECT_EQ(tokenizer.decode(tokens), word);
}

void expect_error(const json& file, const std::string& says) {
  try {
    Tokenizer::from_model(file.dump(), "some.json");
    ADD_FAILURE() << "no error that says " << says;
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Exit::kBadData);
    EXPECT_NE(std::string(error.what()).find("some.json"), std::string::npos) << error.what();
    EXPECT_NE(std::string(error.what()).find(says), std::string::npos) << error.what();
  }
}

// What is not supported, and what a file must not say, is refused by name.
TEST(TokenizerJson, RefusesWhatItDoesNotKnow) {
  const std::vector<std::pair<const char*, const char*>> cases = {
      {R"({"model": {"type": "WordPiece"}})", "WordPiece"},
      {R"({"model": {"type": "WordLevel"}})", "WordLevel"},
      {R"({"model": null})", "model"},
      {R"({"model": {"dropout": 0.1}})", "dropout"},
      {R"({"model": {"end_of_word_suffix": "</w>"}})", "end_of_word_suffix"},
      {R"({"model": {"unk_token": "absent"}})", "absent"},
      {R"({"model": {"vocab": {"a": -1}}})", "'a'"},
      {R"({"model": {"vocab": {"a": 4000000000}}})", "'a'"},
      {R"({"model": {"vocab": {"zz9": 0}}})", "id 0"},
      {R"({"model": {"merges": ["a b c"]}})", "a b c"},
      {R"({"model": {"merges": [["a", "absent"]]}})", "absent"},
      {R"({"model": {"merges": [["a"]]}})", "merge"},
      {R"({"model": {"byte_fallback": true}})", "byte_fallback"},
      {R"({"model": {"byte_fallback": "yes"}})", "byte_fallback"},
      {R"({"normalizer": {"type": "Precompiled"}})", "Precompiled"},
      {R"({"normalizer": {"type": "Sequence", "normalizers": [{"type": "Nmt"}]}})", "Nmt"},
      {R"({"normalizer": {"type": "Replace", "pattern": {"String": ""}, "content": "x"}})",
       "String"},
      {R"({"pre_tokenizer": {"type": "BertPreTokenizer"}})", "BertPreTokenizer"},
      {R"({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "ByteLevel"},
          {"type": "Digits"}]}})",
       "must be the last"},
      {R"({"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "a"}, "behavior": "Odd"}})",
       "Odd"},
      {R"({"decoder": {"type": "CTC"}})", "CTC"},
      {R"({"added_tokens": [{"id": 9999, "content": "far"}]})", "far"},
      {R"({"added_tokens": [{"id": 0, "content": ""}]})", "id"},
      {R"({"added_tokens": 5})", "added_tokens"},
      {R"({"model": {"moesaic": {"eos_id": 99999, "bos_id": -1}}})", "99999"},
  };
  for (const auto& [patch, says] : cases) {
    json file = json::parse(golden("gpt2"));
    file.merge_patch(json::parse(patch));
    expect_error(file, says);
  }
}

// Patterns that another library could read in another way are refused, as are wrong ones.
TEST(TokenizerJson, RefusesPatterns) {
  for (const char* const pattern : {"(",
                                    ")",
                                    "[a",
                                    "[a[b]]",
                                    "[a&&b]",
                                    "[[:alpha:]]",
                                    R"(\h)",
                                    R"(\R)",
                                    R"(\K)",
                                    R"(\1)",
                                    R"(\pL)",
                                    R"(\p{L)",
                                    R"(\p{Nonsense})",
                                    R"([\W])",
                                    R"(\xE3)",
                                    R"(\x{110000})",
                                    "(*LIMIT_MATCH=1)a",
                                    "(?m:a)",
                                    "(?P<n>a)",
                                    "a(?i)b",
                                    "*",
                                    "",
                                    R"(\)",
                                    "a{2,1}"}) {
    json file = json::parse(golden("gpt2"));
    file["pre_tokenizer"] = {
        {"type", "Split"}, {"pattern", {{"Regex", pattern}}}, {"behavior", "Isolated"}};
    expect_error(file, "pre_tokenizer");
  }
}

// A pattern that backtracks without end is stopped, and says so.
TEST(TokenizerJson, BoundsTheSearch) {
  json file = json::parse(golden("gpt2"));
  file["pre_tokenizer"] = {
      {"type", "Split"}, {"pattern", {{"Regex", "(a+)+c"}}}, {"behavior", "Isolated"}};
  const Tokenizer tokenizer = Tokenizer::from_model(file.dump(), "slow");
  EXPECT_THROW(tokenizer.encode(std::string(60, 'a') + "bc"), Error);
}

// Damage ends in an error or in a tokenizer that works, never in a crash.
TEST(TokenizerJson, SurvivesDamage) {
  std::mt19937 random(13);
  const auto attempt = [](const std::string& content) {
    try {
      const Tokenizer tokenizer = Tokenizer::from_model(content, "damaged");
      tokenizer.decode(tokenizer.encode("Hello, w\xC3\xB6rld! 123 <|endoftext|>\n  \xFF"));
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), Exit::kBadData) << error.what();
    }
  };
  for (const std::string name : {"deepseek_v3", "mixtral", "unigram"}) {
    const std::string good = golden(name);
    for (int i = 0; i < 60; ++i) {
      attempt(good.substr(0, random() % good.size()));
      std::string bad = good;
      for (int change = 0; change < 3; ++change) {
        bad[random() % bad.size()] = good[random() % good.size()];
      }
      attempt(bad);
    }
  }
  attempt("{" + std::string(100'000, '['));
  attempt(R"({"a":)" + std::string(100'000, '['));
}

/// A member of a random object of the file is taken out, or replaced by another value.
void change_somewhere(json& value, std::mt19937& random) {
  const std::vector<json> others = {nullptr, -1, 1e300, "x", json::array(), json::object(), true};
  json* at = &value;
  while (at->is_structured() && !at->empty() && random() % 4 != 0) {
    auto member = at->begin();
    std::advance(member, random() % at->size());
    at = &*member;
  }
  *at = others[random() % others.size()];
}

// So does a file that is JSON, with values of wrong types in any place.
TEST(TokenizerJson, SurvivesWrongValues) {
  std::mt19937 random(14);
  for (const std::string name : {"deepseek_v3", "mixtral", "unigram", "olmoe"}) {
    const json good = json::parse(golden(name));
    for (int i = 0; i < 150; ++i) {
      json bad = good;
      change_somewhere(bad, random);
      try {
        const Tokenizer tokenizer = Tokenizer::from_model(bad.dump(), "damaged");
        tokenizer.decode(tokenizer.encode("Hello, w\xC3\xB6rld! <|endoftext|>"));
      } catch (const Error& error) {
        EXPECT_EQ(error.code(), Exit::kBadData) << error.what();
      }
    }
  }
}

// A folder's files say what bos and eos are; the content that comes out needs no other file.
TEST(TokenizerFolder, TakesInTheMarks) {
  const TempDir dir;
  write_file(dir / "tokenizer.json", golden("mixtral"));
  Tokenizer plain = Tokenizer::load(dir.path());
  EXPECT_EQ(plain.eos_id(), -1);
  EXPECT_EQ(plain.file_name(), "tokenizer.json");
  write_file(dir / "config.json", R"({"bos_token_id": 1, "eos_token_id": [2, 7]})");
  EXPECT_EQ(Tokenizer::load(dir.path()).eos_id(), 2);
  EXPECT_EQ(Tokenizer::load(dir.path()).bos_id(), 1);
  write_file(dir / "tokenizer_config.json",
             R"({"bos_token": null, "eos_token": {"content": "<s>"}})");
  const Tokenizer tokenizer = Tokenizer::load(dir / "tokenizer.json");
  EXPECT_EQ(tokenizer.bos_id(), -1);
  EXPECT_EQ(tokenizer.eos_id(), 1);
  EXPECT_NE(tokenizer.sha256(), plain.sha256());

  const TempDir other;
  write_file(other / "tokenizer.json", tokenizer.model());
  data::CorpusInfo corpus;
  corpus.name = "other";
  corpus.tokenizer = other / "tokenizer.json";
  corpus.vocab_sha256 = tokenizer.sha256();
  EXPECT_EQ(data::tokenizer_of(corpus).eos_id(), 1);
  EXPECT_EQ(data::tokenizer_of(corpus).encode("a b"), tokenizer.encode("a b"));
}

// What is missing or contradicts the vocabulary is named.
TEST(TokenizerFolder, NamesWhatIsWrong) {
  const TempDir dir;
  const auto fails = [&](Exit code) {
    try {
      Tokenizer::load(dir.path());
      return false;
    } catch (const Error& error) {
      return error.code() == code;
    }
  };
  EXPECT_TRUE(fails(Exit::kNoInput));
  write_file(dir / "tokenizer.json", golden("mixtral"));
  write_file(dir / "config.json", R"({"eos_token_id": 1000000})");
  EXPECT_TRUE(fails(Exit::kBadData));
  write_file(dir / "config.json", R"({"eos_token_id": "two"})");
  EXPECT_TRUE(fails(Exit::kBadData));
  write_file(dir / "tokenizer_config.json", R"({"eos_token": "<absent>"})");
  EXPECT_TRUE(fails(Exit::kBadData));
  write_file(dir / "tokenizer.json", "{");
  EXPECT_TRUE(fails(Exit::kBadData));
}

}  // namespace
}  // namespace moesaic::text
