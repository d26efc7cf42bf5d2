// Text and JSONL are read as they are, packed or not, from the start or from the middle.
#include <gtest/gtest.h>
#include <zlib.h>
#include <zstd.h>

#include <functional>

#include "data/build/input.h"
#include "support/temp_dir.h"
#include "text/source.h"

namespace moesaic::text {
namespace {

using moesaic::testing::read_file;
using moesaic::testing::TempDir;
using moesaic::testing::write_file;

std::string many_lines() {
  std::string text;
  for (int i = 0; i < 50000; ++i) {
    text += "{\"text\": \"line " + std::to_string(i) + "\"}\n";
  }
  return text;
}

void write_zstd(const std::filesystem::path& file, const std::string& text) {
  std::string packed(ZSTD_compressBound(text.size()), '\0');
  packed.resize(ZSTD_compress(packed.data(), packed.size(), text.data(), text.size(), 1));
  write_file(file, packed);
}

void write_gzip(const std::filesystem::path& file, const std::string& text) {
  const gzFile out = gzopen(file.c_str(), "wb");
  gzwrite(out, text.data(), static_cast<unsigned>(text.size()));
  gzclose(out);
}

DocumentReader open(const std::filesystem::path& file) {
  return DocumentReader(data::list_inputs({file.string()}).at(0), {});
}

std::vector<TextDocument> read_all(const std::filesystem::path& file) {
  DocumentReader reader = open(file);
  std::vector<TextDocument> documents;
  TextDocument document;
  while (reader.next(document)) {
    documents.push_back(document);
  }
  return documents;
}

Exit code_of(const std::function<void()>& work) {
  try {
    work();
  } catch (const Error& error) {
    return error.code();
  }
  return Exit::kDone;
}

// All packings give the same documents.
TEST(TextSource, UnpacksByName) {
  const TempDir dir;
  write_file(dir / "a.jsonl", many_lines());
  write_gzip(dir / "a.jsonl.gz", many_lines());
  write_zstd(dir / "a.jsonl.zst", many_lines());
  for (const char* const name : {"a.jsonl", "a.jsonl.gz", "a.jsonl.zst"}) {
    const auto documents = read_all(dir / name);
    ASSERT_EQ(documents.size(), 50000U) << name;
    EXPECT_EQ(documents[49999].text, "line 49999");
    EXPECT_EQ(documents[49999].id, std::string(name) + ":50000");
  }
  write_zstd(dir / "whole.txt.zst", many_lines());
  EXPECT_EQ(read_all(dir / "whole.txt.zst").at(0).text, many_lines());
}

// A packed file that is cut or damaged is never taken for a short one.
TEST(TextSource, FindsCutPackings) {
  const TempDir dir;
  write_gzip(dir / "a.txt.gz", many_lines());
  write_zstd(dir / "b.txt.zst", many_lines());
  for (const char* const name : {"a.txt.gz", "b.txt.zst"}) {
    const std::string whole = read_file(dir / name);
    write_file(dir / name, whole.substr(0, whole.size() / 2));
    EXPECT_EQ(code_of([&] { read_all(dir / name); }), Exit::kBadData) << name;
  }
  write_file(dir / "c.txt.zst", "this was never packed");
  EXPECT_EQ(code_of([&] { read_all(dir / "c.txt.zst"); }), Exit::kBadData);
}

// A document is found again by its place, by seeking or by reading over the others.
TEST(TextSource, SkipsToAPlace) {
  const TempDir dir;
  write_file(dir / "a.jsonl", many_lines());
  write_zstd(dir / "a.jsonl.zst", many_lines());
  for (const char* const name : {"a.jsonl", "a.jsonl.zst"}) {
    const TextPlace place = read_all(dir / name).at(30000).place;
    DocumentReader reader = open(dir / name);
    TextDocument document;
    reader.skip_to(place);
    ASSERT_TRUE(reader.next(document));
    EXPECT_EQ(document.text, "line 30000");
    EXPECT_EQ(document.place.line, 30000);
    ASSERT_TRUE(reader.next(document));
    EXPECT_EQ(document.text, "line 30001");
  }
}

// A line is text or a context with its continuation: what is neither, or both, is refused by line
// and field.
TEST(TextSource, JudgesFields) {
  const TempDir dir;
  const auto told = [&](const std::string& line, const TextFields& fields = {}) -> std::string {
    write_file(dir / "a.jsonl", "\n" + line + "\n");
    DocumentReader reader(data::list_inputs({(dir / "a.jsonl").string()}).at(0), fields);
    TextDocument document;
    try {
      reader.next(document);
    } catch (const BadLine& error) {
      EXPECT_EQ(error.code(), Exit::kBadData);
      return error.what();
    }
    return document.context + "|" + document.text;
  };
  EXPECT_EQ(told(R"({"text": ""})"), "|");
  EXPECT_EQ(told(R"({"text": "a", "id": null, "task": null, "context": "b"})"), "|a");
  EXPECT_EQ(told(R"({"context": "", "continuation": "c"})"), "|c");
  EXPECT_EQ(told(R"({"context": "b", "continuation": "c"})", {.text = "context"}), "|b");
  EXPECT_EQ(told(R"({"context": "b", "continuation": "c"})", {.text = "continuation"}), "|c");
  const std::vector<std::pair<std::string, std::string>> refused = {
      {R"({"text": null})", "its field 'text' is not a string"},
      {R"({"text": 5})", "its field 'text' is not a string"},
      {R"({"text": "a", "context": "b", "continuation": "c"})", "both 'text' and 'continuation'"},
      {R"({"context": null, "continuation": "c"})", "its field 'context' is not a string"},
      {R"({"context": "b", "continuation": null})", "its field 'continuation' is not a string"},
      {R"({"continuation": "c"})", "its field 'context' is missing"},
      {R"({"context": "b"})", "neither 'text' nor 'context' and 'continuation'"},
      {R"({"text": "a", "task": 1})", "its field 'task' is not a string"}};
  for (const auto& [line, why] : refused) {
    EXPECT_NE(told(line).find("a.jsonl:2: not a legal document: "), std::string::npos)
        << told(line);
    EXPECT_NE(told(line).find(why), std::string::npos) << told(line);
  }
}

// Inputs that share a name get ids that differ.
TEST(TextSource, TellsEqualNamesApart) {
  const TempDir dir;
  for (const char* const folder : {"one", "two"}) {
    std::filesystem::create_directory(dir / folder);
    write_file(dir / folder / "same.txt", folder);
  }
  const auto files = data::list_inputs({(dir / "one").string(), (dir / "two").string()});
  ASSERT_EQ(files.size(), 2U);
  EXPECT_NE(files[0].name, files[1].name);
  EXPECT_EQ(data::list_inputs({(dir / "one").string()}).at(0).name, "same.txt");
}

// Spans count characters, as Python does; labels are the ids themselves.
TEST(TextSource, ReadsTargets) {
  const TempDir dir;
  write_file(
      dir / "a.jsonl",
      "{\"text\": \"\u00e9\U0001D11Ex\", \"spans\": [[0, 1], [1, 1], [2, 3]], \"group\": 7}\n"
      "{\"input_ids\": [5, 6, 7, 8], \"labels\": [-100, 6, 7, -1], \"weight\": 0.25}\n"
      "{\"prompt\": \"ask\", \"group\": \"7\"}\n"
      "{\"text\": \"x\", \"spans\": null, \"group\": null}\n");
  const auto documents = read_all(dir / "a.jsonl");
  ASSERT_EQ(documents.size(), 4U);
  EXPECT_EQ(documents[0].spans, (std::vector<TextRange>{{0, 2}, {6, 7}}));
  EXPECT_EQ(documents[0].group, "7");
  EXPECT_EQ(documents[1].ids, (std::vector<std::int32_t>{5, 6, 7, 8}));
  EXPECT_EQ(documents[1].spans, (std::vector<TextRange>{{1, 3}}));
  EXPECT_EQ(documents[1].weight, 0.25F);
  EXPECT_TRUE(documents[2].prompt);
  EXPECT_EQ(documents[2].spans, std::vector<TextRange>{});
  EXPECT_EQ(documents[2].group, "\"7\"");  // a string is no number
  EXPECT_FALSE(documents[3].spans.has_value());
  EXPECT_EQ(documents[3].group, "");
}

// What is wrong with a line is said, with its file and line.
TEST(TextSource, RefusesBadTargets) {
  const TempDir dir;
  const std::vector<std::pair<std::string, std::string>> cases = {
      {R"({"text": "abc", "spans": [[1, 4]]})", "ends at 4, but its text has 3 characters"},
      {R"({"text": "abc", "spans": [[2, 1]]})", "[2, 1) ends before it begins"},
      {R"({"text": "abc", "spans": [[0, 2], [1, 3]]})", "[1, 3) follows one that ends at 2"},
      {R"({"text": "abc", "spans": [[0, -1]]})", "'spans' has [0,-1]"},
      {R"({"text": "abc", "spans": [1, 2]})", "'spans' has 1"},
      {R"({"text": "abc", "spans": "x"})", "'spans' is not a list"},
      {R"({"context": "a", "continuation": "b", "spans": []})",
       "'spans', which belong to a 'text'"},
      {R"({"input_ids": [1, 2]})", "'labels' is missing"},
      {R"({"input_ids": [1, 2], "labels": [1]})", "2 input_ids, but 1 labels"},
      {R"({"input_ids": [1, 2], "labels": [-100, 3]})",
       "at position 1 its label is 3, but its id 2"},
      {R"({"input_ids": [-1], "labels": [-100]})", "at position 0 its id is -1"},
      {R"({"input_ids": [1], "labels": [1], "text": "a"})", "both 'text' and 'input_ids'"},
      {R"({"messages": []})", "analysis/render_chat.py"},
      {R"({"prompt": "a", "completion": "b"})", "analysis/render_chat.py"},
      {R"({"prompt": "a", "chosen": "b", "rejected": "c"})", "each as a line of its own"},
      {R"({"text": "a", "weight": 0})", "'weight' is 0"},
      {R"({"text": "a", "weight": "1"})", "'weight' is \"1\""},
      {R"({"text": "a", "weight": 1e-60})", "'weight'"},
      {R"({"text": "a", "group": 1.5})", "'group' is neither"}};
  for (const auto& [line, words] : cases) {
    write_file(dir / "b.jsonl", "{\"text\": \"fine\"}\n" + line + "\n");
    try {
      read_all(dir / "b.jsonl");
      ADD_FAILURE() << line;
    } catch (const BadLine& error) {
      const std::string told = error.what();
      EXPECT_NE(told.find((dir / "b.jsonl").string() + ":2: "), std::string::npos) << told;
      EXPECT_NE(told.find(words), std::string::npos) << told;
    }
  }
}

}  // namespace
}  // namespace moesaic::text
