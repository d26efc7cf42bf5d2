// What a file holds decides how it is read, not its name; nothing is left out without a word.
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <zlib.h>
#include <zstd.h>

#include <functional>

#include "base/error.h"
#include "data/build/input.h"
#include "files/lenient_json.h"
#include "files/white_space.h"
#include "support/temp_dir.h"
#include "text/source.h"

namespace moesaic::data {
namespace {

using moesaic::testing::TempDir;
using moesaic::testing::write_file;
namespace fs = std::filesystem;

const std::string kLines = "{\"text\": \"a\"}\n{\"text\": \"b\"}\n";

void write_gzip(const fs::path& file, const std::string& text) {
  const gzFile out = gzopen(file.c_str(), "wb");
  gzwrite(out, text.data(), static_cast<unsigned>(text.size()));
  gzclose(out);
}

void write_zstd(const fs::path& file, const std::string& text) {
  std::string packed(ZSTD_compressBound(text.size()), '\0');
  packed.resize(ZSTD_compress(packed.data(), packed.size(), text.data(), text.size(), 1));
  write_file(file, packed);
}

// The texts of an input, joined by |, or "CODE MESSAGE".
std::string read(const fs::path& input, std::int64_t most = 1 << 30) {
  std::string texts;
  try {
    for (const text::InputFile& file : list_inputs({input.string()})) {
      text::DocumentReader reader(file, {}, most);
      text::TextDocument document;
      while (reader.next(document)) {
        texts += document.context + document.text + "|";
      }
    }
  } catch (const Error& error) {
    return std::to_string(static_cast<int>(error.code())) + " " + error.what();
  }
  return texts;
}

void expect_words(const std::string& told, const std::vector<std::string>& words) {
  for (const std::string& word : words) {
    EXPECT_NE(told.find(word), std::string::npos) << "no '" << word << "' in: " << told;
  }
}

// Lines of JSON are found under all names that people give them, packed by what their bytes say.
TEST(TextInput, FindsLinesOfJson) {
  const TempDir dir;
  for (const char* const name : {"a.json", "b.ndjson", "c.jsonlines", "d.JSONL", "E.Json"}) {
    write_file(dir / name, kLines);
    EXPECT_EQ(read(dir / name), "a|b|") << name;
  }
  write_gzip(dir / "c4-train.00000-of-01024.json.gz", kLines);
  EXPECT_EQ(read(dir / "c4-train.00000-of-01024.json.gz"), "a|b|");
  write_zstd(dir / "X.JSON.ZST", kLines);
  EXPECT_EQ(read(dir / "X.JSON.ZST"), "a|b|");
  write_gzip(dir / "renamed.jsonl", kLines);
  EXPECT_EQ(read(dir / "renamed.jsonl"), "a|b|");
  write_file(dir / "one.json", "\xEF\xBB\xBF{\"text\": \"a\"}");
  EXPECT_EQ(read(dir / "one.json"), "a|");
  write_file(dir / "text.txt", kLines);
  EXPECT_EQ(read(dir / "text.txt"), kLines + "|");
  // A bad first line is a bad line, not another kind of file.
  write_file(dir / "bad.json", "{\"text\": \"a\n" + kLines);
  expect_words(read(dir / "bad.json"), {"65 ", "bad.json:1: not a legal document"});
}

// JSON that is no JSONL is refused with what makes it that.
TEST(TextInput, RefusesOtherJson) {
  const TempDir dir;
  write_file(dir / "list.json", "[{\"text\": \"a\"}]");
  write_file(dir / "long.json", "{\n  \"text\": \"a\"\n}\n");
  write_file(dir / "other.json", "text");
  expect_words(read(dir / "list.json"), {"65 ", (dir / "list.json").string(), "jq -c '.[]'"});
  expect_words(read(dir / "long.json"), {"65 ", (dir / "long.json").string(), "jq -c ."});
  expect_words(read(dir / "other.json"), {"65 ", "does not begin with a JSON object"});
}

// What is no text is refused by name, also where it is named directly, and left out of a folder.
TEST(TextInput, RefusesBinaryFiles) {
  const TempDir dir;
  fs::create_directory(dir / "in");
  using namespace std::string_literals;
  const std::vector<std::pair<std::string, std::vector<std::string>>> kinds = {
      {"PAR1\x15\x04"s, {"Parquet", "python3 analysis/import_corpus.py", "-o DIR"}},
      {"ARROW1\0\0"s, {"Arrow", "python3 analysis/import_corpus.py"}},
      {"\x89HDF\r\n\x1a\n"s, {"HDF5"}},
      {"PK\x03\x04"s, {"zip", "unpack"}},
      {"BZh91AY&SY\x01"s, {"bzip2", "unpack"}},
      {"\xFF\xFEh\0i\0"s, {"UTF-16", "iconv"}},
      {"a\0b"s, {"binary", "NUL"}}};
  for (const auto& [start, words] : kinds) {
    write_file(dir / "in" / "x.txt", start);
    const std::string told = read(dir / "in" / "x.txt");
    expect_words(told, words);
    expect_words(told, {"65 ", (dir / "in" / "x.txt").string()});
    write_file(dir / "in" / "t.txt", "text");
    EXPECT_EQ(read(dir / "in"), "text|");
  }
}

// A text may begin with the letters that mark a binary file, and a line of JSONL may hold a NUL.
TEST(TextInput, LettersOfMarksAreText) {
  const TempDir dir;
  for (const std::string text : {"PAR1 is the first part", "FEA1, a name", "%PDF- begins a PDF"}) {
    write_file(dir / "x.txt", text);
    EXPECT_EQ(read(dir / "x.txt"), text + "|");
  }
  using namespace std::string_literals;
  write_file(dir / "x.jsonl", "{\"text\": \"a\"}\n{\"text\": \"\0\"}\n"s);
  EXPECT_NE(read(dir / "x.jsonl").find("x.jsonl:2"), std::string::npos) << read(dir / "x.jsonl");
}

// A folder is gone through with its links; one that leads nowhere, or in a circle, is named.
TEST(TextInput, FollowsLinks) {
  const TempDir dir;
  fs::create_directories(dir / "in");
  fs::create_directories(dir / "blobs");
  write_file(dir / "blobs" / "4f", kLines);
  write_file(dir / "blobs" / "t.txt", "text");
  fs::create_symlink("../blobs/4f", dir / "in" / "x.jsonl");
  fs::create_symlink("../blobs", dir / "in" / "more");
  write_file(dir / "in" / "package.json", "{\"name\": \"no document\"}");
  EXPECT_EQ(read(dir / "in"), kLines + "|text|a|b|");  // more/4f, more/t.txt, x.jsonl
  fs::create_symlink("../gone", dir / "in" / "y.jsonl");
  expect_words(read(dir / "in"), {"66 ", (dir / "in" / "y.jsonl").string(), "../gone"});
  fs::remove(dir / "in" / "y.jsonl");
  fs::create_symlink("../in", dir / "blobs" / "up");
  expect_words(read(dir / "in"), {"66 ", "up", "remove the link"});
  fs::create_symlink("loop", dir / "loop");
  expect_words(read(dir / "loop"), {"66 ", (dir / "loop").string()});
}

// Names may be any bytes; what can be read only once is refused.
TEST(TextInput, TakesOddFiles) {
  const TempDir dir;
  fs::create_directory(dir / "in");
  write_file(dir / "in" / "caf\xE9.txt", "latin");
  const auto files = list_inputs({(dir / "in").string()});
  EXPECT_EQ(files.at(0).name, "caf\xEF\xBF\xBD.txt");
  EXPECT_EQ(read(dir / "in"), "latin|");
  ASSERT_EQ(mkfifo((dir / "pipe").c_str(), 0600), 0);
  expect_words(read(dir / "pipe"), {"66 ", (dir / "pipe").string(), "write it to a file"});
}

// JSON as Python writes it: half a surrogate pair is U+FFFD, NaN is nothing.
TEST(TextInput, ReadsPythonsJson) {
  const TempDir dir;
  write_file(dir / "a.jsonl",
             "{\"text\": \"x\\ud800y\\\\ud800\", \"score\": NaN, \"more\": [-Infinity, Infinity]}\n"
             "{\"text\": \"\\ude00\\ud83d\\ude00 NaN\", \"id\": NaN}\n");
  EXPECT_EQ(read(dir / "a.jsonl"), "x\xEF\xBF\xBDy\\ud800|\xEF\xBF\xBD\xF0\x9F\x98\x80 NaN|");
  write_file(dir / "b.jsonl", "{\"text\": NaN}\n");
  expect_words(read(dir / "b.jsonl"), {"65 ", "'text' is not a string"});
}

// A broken line is quoted in part.
TEST(TextInput, QuotesLittle) {
  const TempDir dir;
  write_file(dir / "a.jsonl", "{\"text\": \"" + std::string(100000, 'z') + "\\q\"}\n");
  const std::string told = read(dir / "a.jsonl");
  expect_words(told, {"65 ", "a.jsonl:1", "forbidden character", "\\q"});
  EXPECT_LT(told.size(), 500U) << told;
}

// Frames with windows of 2 GiB, as zstd --long=31 makes them.
TEST(TextInput, ReadsLargeWindows) {
  const TempDir dir;
  std::string frame = "\x28\xB5\x2F\xFD";
  frame += '\0';                               // neither size nor checksum
  frame += static_cast<char>((31 - 10) << 3);  // log2 of the window
  const std::string text = "far back";
  const auto header = static_cast<unsigned>(text.size()) << 3U | 1U;  // the last block, as it is
  for (const unsigned shift : {0U, 8U, 16U}) {
    frame += static_cast<char>(header >> shift & 0xFFU);
  }
  write_file(dir / "long.txt.zst", frame + text);
  EXPECT_EQ(read(dir / "long.txt.zst"), "far back|");
}

// A text or line is refused as soon as it is too long, however long it is; others go on.
TEST(TextInput, BoundsDocuments) {
  const TempDir dir;
  write_zstd(dir / "bomb.txt.zst", std::string(std::size_t{1} << 26U, 'a'));
  expect_words(read(dir / "bomb.txt.zst", 1000),
               {"65 ", "bomb.txt.zst", "tokenize.max_document = 1000 bytes"});
  EXPECT_EQ(read(dir / "bomb.txt.zst").size(), (std::size_t{1} << 26U) + 1);
  write_file(dir / "a.jsonl", "{\"text\": \"a\"}\n{\"text\": \"" + std::string(1 << 20, 'b') +
                                  "\"}\n{\"text\": \"c\"}\n");
  const text::InputFile file = list_inputs({(dir / "a.jsonl").string()}).at(0);
  text::DocumentReader reader(file, {}, 1000);
  text::TextDocument document;
  ASSERT_TRUE(reader.next(document));
  try {
    reader.next(document);
    ADD_FAILURE();
  } catch (const text::BadLine& error) {
    expect_words(error.what(), {"a.jsonl:2 is longer", "tokenize.max_document"});
  }
  ASSERT_TRUE(reader.next(document));
  EXPECT_EQ(document.text, "c");
  EXPECT_EQ(document.id, "a.jsonl:3");
  const text::TextPlace place = document.place;
  EXPECT_FALSE(reader.next(document));
  text::DocumentReader again(file, {}, 1000);
  again.skip_to(place);
  ASSERT_TRUE(again.next(document));
  EXPECT_EQ(document.text, "c");
}

// White space at the end of a context is what Python's str.rstrip() takes away.
TEST(TextInput, SplitsContextsAsPython) {
  for (const char* const space :
       {" ", "\t", "\x1C", "\x1F", "\xC2\x85", "\xC2\xA0", "\xE1\x9A\x80", "\xE2\x80\x8A",
        "\xE2\x80\xA8", "\xE2\x80\xA9", "\xE2\x80\xAF", "\xE2\x81\x9F", "\xE3\x80\x80"}) {
    EXPECT_EQ(files::size_without_space("ab" + std::string(space) + " " + space), 2U) << space;
  }
  for (const char* const other : {"\xE2\x80\x8B", "\xEF\xBB\xBF", "\x1B", "\xC2\xAD"}) {
    EXPECT_EQ(files::size_without_space(other), std::string(other).size());
  }
  EXPECT_EQ(files::size_without_space("\xE3\x80\x80"), 0U);
  const TempDir dir;
  write_file(dir / "p.jsonl", "{\"context\": \"問い\u3000\", \"continuation\": \"答え\"}\n");
  text::DocumentReader reader(list_inputs({(dir / "p.jsonl").string()}).at(0), {});
  text::TextDocument document;
  ASSERT_TRUE(reader.next(document));
  EXPECT_EQ(document.context, "問い");
  EXPECT_EQ(document.text, "\u3000答え");
}

}  // namespace
}  // namespace moesaic::data
