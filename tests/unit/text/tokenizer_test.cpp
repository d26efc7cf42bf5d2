// Tokenizers give back the bytes that they were given, and know their vocabulary.
#include "text/tokenizer.h"

#include <gtest/gtest.h>
#include <sentencepiece_processor.h>

#include <algorithm>
#include <numeric>
#include <random>

#include "base/error.h"
#include "base/utf8.h"
#include "data/corpus/corpus_tokenizer.h"
#include "support/temp_dir.h"

namespace moesaic::text {
namespace {

std::vector<std::string> sample_texts() {
  std::vector<std::string> texts;
  for (int i = 0; i < 300; ++i) {
    const std::string n = std::to_string(i);
    texts.push_back("def f" + n + "(value):\n    if value > " + n +
                    ":\n        return value\n\n    return None  # nothing\n\n\n");
    texts.push_back("The quick brown fox number " + n + " jumps over the lazy dog.\n");
  }
  return texts;
}

const std::string& trained_model() {
  static const std::string model = train_tokenizer(sample_texts(), 600);
  return model;
}

Tokenizer trained() { return Tokenizer::from_model(trained_model(), "trained"); }

std::vector<std::string> hard_texts() {
  std::string all_bytes(256, '\0');
  std::iota(all_bytes.begin(), all_bytes.end(), '\0');
  std::string noise;
  std::mt19937 random(7);
  for (int i = 0; i < 5000; ++i) {
    noise += static_cast<char>(random() % 256);
  }
  return {"",
          " ",
          "\n",
          "plain words",
          "  leading and trailing  ",
          "\tif x:\r\n\t\treturn 1\r\n\r\n",
          "a    b          c\n\n\n\n   d",
          "emoji \xF0\x9F\x98\x80\xF0\x9F\x8F\xBD and \xE2\x80\x8D joiner",
          "\xD0\x9F\xD1\x80\xD0\xB8 \xE4\xBD\xA0\xE5\xA5\xBD \xD8\xB3 \xE0\xA4\xA8 \xEF\xAC\x81",
          "a \xE2\x96\x81 mark \xE2\x96\x81\xE2\x96\x81x",
          "<s> </s> <unk> <0x41> are only text",
          "bad \xFF\xFE \xC3( \xE2\x82 end \xF0\x9F",
          std::string("nul \0 inside", 12),
          all_bytes,
          noise};
}

// A line of any length is cut where no piece crosses, which changes no token.
TEST(Tokenizer, CutsLongLines) {
  const Tokenizer tokenizer = trained();
  std::string line;
  std::mt19937 random(3);
  const std::vector<std::string> words = {"return ", "value",  "  ", "quick",
                                          " 你好",   "None  ", "x"};
  while (line.size() < 300000) {
    line += words[random() % words.size()];
  }
  const auto tokens = tokenizer.encode(line);
  EXPECT_EQ(tokenizer.decode(tokens), line);
  sentencepiece::SentencePieceProcessor whole;
  ASSERT_TRUE(whole.LoadFromSerializedProto(trained_model()).ok());
  std::vector<int> ids;
  ASSERT_TRUE(whole.Encode(line, &ids).ok());
  EXPECT_TRUE(tokens == std::vector<std::int32_t>(ids.begin(), ids.end()));
}

// Bytes are their own ids; the marks follow.
TEST(ByteTokenizer, RoundTrips) {
  const Tokenizer tokenizer = Tokenizer::bytes();
  EXPECT_EQ(tokenizer.encode("A\xFF"), (std::vector<std::int32_t>{65, 255}));
  EXPECT_EQ(tokenizer.vocab_size(), 257);
  EXPECT_EQ(tokenizer.eos_id(), 256);
  EXPECT_EQ(tokenizer.bos_id(), -1);
  EXPECT_EQ(Tokenizer::bytes(true).vocab_size(), 258);
  EXPECT_NE(Tokenizer::bytes(true).sha256(), tokenizer.sha256());
  for (const std::string& text : hard_texts()) {
    EXPECT_EQ(tokenizer.decode(tokenizer.encode(text)), text);
  }
}

// A trained vocabulary loses nothing: white space, any script, and bytes that are no text.
TEST(TrainedTokenizer, IsLossless) {
  const Tokenizer tokenizer = trained();
  for (const std::string& text : hard_texts()) {
    EXPECT_EQ(tokenizer.decode(tokenizer.encode(text)), text);
  }
}

// Cutting a long text for speed gives the tokens that its parts give.
TEST(TrainedTokenizer, CutsChangeNothing) {
  const Tokenizer tokenizer = trained();
  std::string text;
  std::vector<std::int32_t> parts;
  for (const std::string& part : sample_texts()) {
    text += part;
    const auto tokens = tokenizer.encode(part);
    parts.insert(parts.end(), tokens.begin(), tokens.end());
  }
  EXPECT_EQ(tokenizer.encode(text), parts);
}

// Which tokens have bytes of a range, by the bytes that each token decodes to: of a SentencePiece
// model also where characters become several tokens, and of bytes.
TEST(Tokenizer, MarksTokensOfRanges) {
  const std::string text =
      std::string("if x:\n    caf\xC3\xA9 \xE2\x96\x81\xF0\x9F\xA6\x9C  the quick") + '\0' + " end";
  for (const bool trains : {false, true}) {
    const Tokenizer tokenizer = trains ? trained() : Tokenizer::bytes();
    const std::vector<std::int32_t> tokens = tokenizer.encode(text);
    std::vector<TextRange> places;
    std::int64_t at = 0;
    for (const std::int32_t token : tokens) {
      const std::int64_t size = std::ssize(tokenizer.piece(token));
      places.push_back({at, at + size});
      at += size;
    }
    ASSERT_EQ(at, std::ssize(text));
    std::vector<std::int64_t> begins;
    for (std::size_t i = 0; i < text.size(); i += utf8_length(text.substr(i))) {
      begins.push_back(static_cast<std::int64_t>(i));
    }
    begins.push_back(std::ssize(text));
    for (std::size_t first = 0; first + 1 < begins.size(); ++first) {
      for (const std::size_t length : {1, 3, 9}) {
        const std::size_t last = std::min(first + length, begins.size() - 1);
        const std::vector<TextRange> ranges = {{begins[first], begins[last]}};
        const Tokenizer::Marked marked = tokenizer.encode_marked(text, ranges);
        ASSERT_EQ(marked.tokens, tokens);
        for (std::size_t i = 0; i < tokens.size(); ++i) {
          // Where a character became several tokens, each may count with the whole of it.
          const char first_byte = text[static_cast<std::size_t>(places[i].begin)];
          const bool bytes = static_cast<unsigned char>(first_byte) >= 0x80 && trains;
          if (!bytes) {
            EXPECT_EQ(marked.inside[i] != 0, overlaps(ranges, places[i])) << i << " of " << first;
          } else if (overlaps(ranges, places[i])) {
            EXPECT_TRUE(marked.inside[i] != 0) << i << " of " << first;
          }
        }
      }
    }
  }
}

// Line ends and indentation are worth pieces of their own.
TEST(TrainedTokenizer, CompressesSourceCode) {
  const Tokenizer tokenizer = trained();
  EXPECT_LE(tokenizer.encode("        return value\n").size(), 5U);
  EXPECT_EQ(tokenizer.vocab_size(), 600);
  EXPECT_EQ(tokenizer.bos_id(), 1);
  EXPECT_EQ(tokenizer.eos_id(), 2);
}

// The same text makes the same model; too little text makes a smaller one.
TEST(TrainedTokenizer, IsDeterministic) {
  EXPECT_EQ(train_tokenizer(sample_texts(), 600), trained_model());
  const Tokenizer small =
      Tokenizer::from_model(train_tokenizer({"abc abc abd\n", "abd abc\n"}, 4096), "small");
  EXPECT_LT(small.vocab_size(), 4096);
  EXPECT_EQ(small.decode(small.encode("abc xyz")), "abc xyz");
}

// The tokenizer of a corpus is the one it was made with, or an error that says so.
TEST(Tokenizer, BelongsToItsCorpus) {
  const moesaic::testing::TempDir dir;
  data::CorpusInfo info;
  info.name = "tiny";
  info.vocab_sha256 = Tokenizer::bytes(true).sha256();
  EXPECT_EQ(data::tokenizer_of(info).vocab_size(), 258);
  moesaic::testing::write_file(dir / "tokenizer.model", trained_model());
  info.tokenizer = dir / "tokenizer.model";
  EXPECT_THROW(data::tokenizer_of(info), Error);
  info.vocab_sha256 = trained().sha256();
  EXPECT_EQ(data::tokenizer_of(info).vocab_size(), 600);
  moesaic::testing::write_file(dir / "tokenizer.model", "nonsense");
  EXPECT_THROW(data::tokenizer_of(info), Error);
}

// Well-formed UTF-8 is told from the rest, at every length.
TEST(Utf8, FindsSequences) {
  EXPECT_EQ(utf8_length("a"), 1U);
  EXPECT_EQ(utf8_length("\xC3\xA9"), 2U);
  EXPECT_EQ(utf8_length("\xE4\xBD\xA0"), 3U);
  EXPECT_EQ(utf8_length("\xF0\x9F\x98\x80"), 4U);
  EXPECT_EQ(utf8_length("\xC0\x80"), 0U);          // overlong
  EXPECT_EQ(utf8_length("\xED\xA0\x80"), 0U);      // surrogate
  EXPECT_EQ(utf8_length("\xF4\x90\x80\x80"), 0U);  // above U+10FFFF
  EXPECT_EQ(utf8_length("\xE4\xBD"), 0U);          // cut
}

}  // namespace
}  // namespace moesaic::text
