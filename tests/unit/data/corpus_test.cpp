// Corpus shards and manifests: what is written is what is read, and damage is found and named.
#include "data/corpus/corpus.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>

#include "base/error.h"
#include "base/json.h"
#include "data/corpus/manifest.h"
#include "data/corpus/shard.h"
#include "files/hdf5/thread.h"
#include "support/temp_dir.h"

namespace moesaic::data {
namespace {

using moesaic::testing::flip_bit;
using moesaic::testing::read_file;
using moesaic::testing::TempDir;
using moesaic::testing::write_file;
namespace fs = std::filesystem;

constexpr std::int64_t kVocab = 300;

// Five documents in three shards, one of them empty and one shard without documents.
const std::vector<std::vector<DocumentRecord>>& shards_of_documents() {
  static const std::vector<std::vector<DocumentRecord>> shards = {
      {{{5, 6, 7, 256}, 0, 3, 1, "a"}, {{}, 0, 0, 0, "empty"}, {{1, 2, 256}, 2, 2, 0, "b"}},
      {},
      {{{299, 0, 1, 2, 256}, 1, 9, 2, "c"}, {{256}, 0, 0, 1, "d"}}};
  return shards;
}

CorpusInfo write_corpus(const fs::path& folder, const std::string& name = "tiny") {
  fs::create_directories(folder);
  CorpusInfo info;
  info.name = name;
  info.manifest = folder / (name + ".json");
  info.vocab_size = kVocab;
  info.vocab_sha256 = "feed";
  info.eos_id = 256;
  info.task_names = {"none", "code", "prose"};
  const auto& shards = shards_of_documents();
  for (std::size_t s = 0; s < shards.size(); ++s) {
    ShardHeader header;
    header.vocab_size = info.vocab_size;
    header.vocab_sha256 = info.vocab_sha256;
    header.task_names = info.task_names;
    header.eos_id = info.eos_id;
    header.shard_index = static_cast<std::int64_t>(s);
    header.shard_count = std::ssize(shards);
    info.shards.push_back(files::hdf5_run([&] {
      ShardWriter writer(folder / shard_file_name(name, header.shard_index, header.shard_count),
                         header, s == 2);
      for (const DocumentRecord& document : shards[s]) {
        writer.add(document);
      }
      return writer.finish();
    }));
    info.tokens += info.shards.back().tokens;
    info.documents += info.shards.back().documents;
  }
  write_corpus_manifest(info);
  return info;
}

// The code and message of what `work` throws.
std::pair<Exit, std::string> failure(const std::function<void()>& work) {
  try {
    work();
  } catch (const Error& error) {
    return {error.code(), error.what()};
  }
  return {Exit::kDone, ""};
}

void read_everything(const std::string& path) {
  Corpus corpus = Corpus::open(path);
  files::hdf5_run([&] { corpus.read(0, corpus.info().tokens); });
}

void expect_failure(const std::function<void()>& work, Exit code,
                    const std::vector<std::string>& words) {
  const auto [actual, message] = failure(work);
  EXPECT_EQ(static_cast<int>(actual), static_cast<int>(code)) << message;
  for (const std::string& word : words) {
    EXPECT_NE(message.find(word), std::string::npos) << "no '" << word << "' in: " << message;
  }
}

// Rewrites one dataset of the last shard, and the manifest's size of it.
void damage(const CorpusInfo& info, const std::function<void(files::Hdf5File&)>& change) {
  CorpusInfo changed = info;
  ShardInfo& shard = changed.shards.back();
  files::hdf5_run([&] {
    files::Hdf5File file = files::Hdf5File::open_to_write(shard.file);
    change(file);
    file.close();
  });
  shard.bytes = static_cast<std::int64_t>(fs::file_size(shard.file));
  write_corpus_manifest(changed);
}

// A round trip keeps tokens, and says for each where it stands.
TEST(Corpus, ReadsWhatWasWritten) {
  const TempDir dir;
  write_corpus(dir.path());
  Corpus corpus = Corpus::open(dir.path().string());
  EXPECT_EQ(corpus.info().tokens, 13);
  EXPECT_EQ(corpus.info().documents, 5);
  const TokenSpan span = files::hdf5_run([&] { return corpus.read(0, 13); });
  EXPECT_EQ(span.token,
            (std::vector<std::int32_t>{5, 6, 7, 256, 1, 2, 256, 299, 0, 1, 2, 256, 256}));
  EXPECT_EQ(span.document, (std::vector<std::int64_t>{0, 0, 0, 0, 2, 2, 2, 3, 3, 3, 3, 3, 4}));
  EXPECT_EQ(span.document_begin,
            (std::vector<std::int64_t>{0, 0, 0, 0, 4, 4, 4, 7, 7, 7, 7, 7, 12}));
  EXPECT_EQ(span.target, (std::vector<std::uint8_t>{0, 1, 1, 1, 0, 0, 1, 0, 1, 1, 1, 1, 0}));
  EXPECT_EQ(span.task, (std::vector<std::uint8_t>{1, 1, 1, 1, 0, 0, 0, 2, 2, 2, 2, 2, 1}));
}

// Every window, over shard borders too, is that part of the whole stream.
TEST(Corpus, WindowsAreParts) {
  const TempDir dir;
  write_corpus(dir.path());
  Corpus corpus = Corpus::open((dir / "tiny.json").string());
  files::hdf5_run([&] {
    const TokenSpan all = corpus.read(0, 13);
    for (std::int64_t begin = 0; begin <= 13; ++begin) {
      for (std::int64_t end = begin; end <= 13; ++end) {
        const TokenSpan part = corpus.read(begin, end - begin);
        EXPECT_TRUE(std::equal(part.token.begin(), part.token.end(), all.token.begin() + begin,
                               all.token.begin() + end));
        EXPECT_TRUE(std::equal(part.document.begin(), part.document.end(),
                               all.document.begin() + begin, all.document.begin() + end));
        EXPECT_TRUE(std::equal(part.target.begin(), part.target.end(), all.target.begin() + begin,
                               all.target.begin() + end));
      }
    }
  });
}

// More shards than are held open read as well as few.
TEST(Corpus, ReadsManyShards) {
  const TempDir dir;
  for (int s = 0; s < 20; ++s) {
    files::hdf5_run([&] {
      ShardHeader header;
      header.vocab_size = kVocab;
      ShardWriter writer(dir / shard_file_name("many", s, 20), header, false);
      writer.add({{s, s + 1}, 0, 2, 0, std::to_string(s)});
      writer.finish();
    });
  }
  Corpus corpus = Corpus::open((dir / "many-*.h5").string());
  const TokenSpan span = files::hdf5_run([&] {
    corpus.read(0, 40);
    return corpus.read(1, 38);
  });
  EXPECT_EQ(span.token.front(), 1);
  EXPECT_EQ(span.token[1], 1);
  EXPECT_EQ(span.token.back(), 19);
  EXPECT_EQ(span.document.back(), 19);
}

// The table of a shard has every column.
TEST(Corpus, GivesDocumentTables) {
  const TempDir dir;
  write_corpus(dir.path());
  Corpus corpus = Corpus::open(dir.path().string());
  const ShardDocuments table = files::hdf5_run([&] { return corpus.documents(2); });
  EXPECT_EQ(table.offsets, (std::vector<std::int64_t>{0, 5, 6}));
  EXPECT_EQ(table.context, (std::vector<std::int64_t>{1, 0}));
  EXPECT_EQ(table.bytes, (std::vector<std::int64_t>{9, 0}));
  EXPECT_EQ(table.task, (std::vector<std::uint8_t>{2, 1}));
  EXPECT_EQ(table.id, (std::vector<std::string>{"c", "d"}));
}

// A file of another program with only the five required parts is legal.
TEST(Corpus, OpensBareFile) {
  const TempDir dir;
  files::hdf5_run([&] {
    files::Hdf5File file = files::Hdf5File::create(dir / "bare.h5");
    file.set_attribute("/", "schema", std::string("moesaic-corpus"));
    file.set_attribute("/", "version", std::int64_t{1});
    file.set_attribute("/", "vocab_size", kVocab);
    file.write_all<std::uint32_t>("/tokens", {4}, std::vector<std::uint32_t>{9, 8, 7, 6});
    file.write_all<std::uint64_t>("/documents/offsets", {3}, std::vector<std::uint64_t>{0, 1, 4});
    file.close();
  });
  Corpus corpus = Corpus::open((dir / "bare.h5").string());
  EXPECT_EQ(corpus.info().documents, 2);
  EXPECT_EQ(corpus.info().eos_id, -1);
  const TokenSpan span = files::hdf5_run([&] { return corpus.read(0, 4); });
  EXPECT_EQ(span.token, (std::vector<std::int32_t>{9, 8, 7, 6}));
  EXPECT_EQ(span.document, (std::vector<std::int64_t>{0, 1, 1, 1}));
  EXPECT_TRUE(verify_corpus(dir / "bare.h5").empty());
}

// Small vocabularies take two bytes a token; large ones are kept whole.
TEST(Corpus, StoresLargeVocabularies) {
  const TempDir dir;
  files::hdf5_run([&] {
    ShardHeader header;
    header.vocab_size = 200000;
    ShardWriter writer(dir / "large.h5", header, true);
    writer.add({{199999, 65536, 0}, 0, 3, 0, "x"});
    writer.finish();
    EXPECT_EQ(files::Hdf5File::open(dir / "large.h5").type_of("/tokens"), "u4");
  });
  Corpus corpus = Corpus::open((dir / "large.h5").string());
  EXPECT_EQ(files::hdf5_run([&] { return corpus.shard_tokens(0, 0, 3); }),
            (std::vector<std::int32_t>{199999, 65536, 0}));
  write_corpus(dir / "small");
  EXPECT_EQ(files::hdf5_run([&] {
              return files::Hdf5File::open(dir / "small" / shard_file_name("tiny", 0, 3))
                  .type_of("/tokens");
            }),
            "u2");
}

// The same documents make the same bytes.
TEST(Corpus, WritesReproducibly) {
  const TempDir dir;
  const CorpusInfo one = write_corpus(dir / "one");
  const CorpusInfo two = write_corpus(dir / "two");
  for (std::size_t s = 0; s < one.shards.size(); ++s) {
    EXPECT_EQ(read_file(one.shards[s].file), read_file(two.shards[s].file));
  }
  EXPECT_EQ(read_file(one.manifest), read_file(two.manifest));
}

// Damage of each kind ends with its code, and a message that names file, numbers and remedy.
TEST(CorpusDamage, TruncatedShard) {
  const TempDir dir;
  const CorpusInfo info = write_corpus(dir.path());
  fs::resize_file(info.shards[0].file, 100);
  expect_failure([&] { Corpus::open(dir.path().string()); }, Exit::kBadData,
                 {info.shards[0].file.string(), "100 bytes", std::to_string(info.shards[0].bytes),
                  "truncated", "copy it again"});
}

TEST(CorpusDamage, MissingShard) {
  const TempDir dir;
  const CorpusInfo info = write_corpus(dir.path());
  fs::remove(info.shards[1].file);
  expect_failure([&] { Corpus::open(dir.path().string()); }, Exit::kNoInput,
                 {info.shards[1].file.string(), "tiny.json"});
}

TEST(CorpusDamage, FlippedBit) {
  const TempDir dir;
  const CorpusInfo info = write_corpus(dir.path());
  const std::string bytes = read_file(info.shards[0].file);
  const std::string tokens{'\5', '\0', '\6', '\0', '\7', '\0'};  // u2, as they lie in the file
  flip_bit(info.shards[0].file, static_cast<std::int64_t>(bytes.find(tokens)));
  expect_failure([&] { read_everything(dir.path().string()); }, Exit::kBadData,
                 {info.shards[0].file.string(), "/tokens"});
  const auto problems = verify_corpus(dir.path());
  ASSERT_EQ(problems.size(), 1U);
  EXPECT_NE(problems[0].find("sha256"), std::string::npos) << problems[0];
}

TEST(CorpusDamage, TokenOutsideVocabulary) {
  const TempDir dir;
  damage(write_corpus(dir.path()), [](files::Hdf5File& file) {
    file.write<std::uint16_t>("/tokens", {2}, {1}, std::vector<std::uint16_t>{300});
  });
  expect_failure([&] { read_everything(dir.path().string()); }, Exit::kBadData,
                 {"tiny-00002-of-00003.h5", "document 0", "position 2", "token 300", "300"});
}

TEST(CorpusDamage, UnsortedOffsets) {
  const TempDir dir;
  damage(write_corpus(dir.path()), [](files::Hdf5File& file) {
    file.write<std::uint64_t>("/documents/offsets", {1}, {1}, std::vector<std::uint64_t>{7});
  });
  expect_failure([&] { read_everything(dir.path().string()); }, Exit::kBadData,
                 {"tiny-00002-of-00003.h5", "not sorted", "6, after 7"});
}

TEST(CorpusDamage, OffsetsEndElsewhere) {
  const TempDir dir;
  damage(write_corpus(dir.path()), [](files::Hdf5File& file) {
    file.write<std::uint64_t>("/documents/offsets", {2}, {1}, std::vector<std::uint64_t>{9});
  });
  expect_failure([&] { read_everything(dir.path().string()); }, Exit::kBadData,
                 {"ends with 9", "6 tokens"});
}

TEST(CorpusDamage, OtherVocabulary) {
  const TempDir dir;
  damage(write_corpus(dir.path()), [](files::Hdf5File& file) {
    file.set_attribute("/", "vocab_sha256", std::string("beef"));
  });
  expect_failure([&] { read_everything(dir.path().string()); }, Exit::kBadData,
                 {"beef", "feed", "same tokenizer"});
  damage(write_corpus(dir.path()),
         [](files::Hdf5File& file) { file.set_attribute("/", "vocab_size", std::int64_t{301}); });
  expect_failure([&] { read_everything(dir.path().string()); }, Exit::kBadData,
                 {"vocab_size = 301", "300"});
}

TEST(CorpusDamage, OtherSchemaOrVersion) {
  const TempDir dir;
  damage(write_corpus(dir.path()),
         [](files::Hdf5File& file) { file.set_attribute("/", "version", std::int64_t{7}); });
  expect_failure([&] { read_everything(dir.path().string()); }, Exit::kBadData,
                 {"version 7 of moesaic-corpus"});
  damage(write_corpus(dir.path()), [](files::Hdf5File& file) {
    file.set_attribute("/", "schema", std::string("moesaic-trace"));
  });
  expect_failure([&] { read_everything(dir.path().string()); }, Exit::kBadData, {"moesaic-trace"});
}

TEST(CorpusDamage, TwoManifests) {
  const TempDir dir;
  write_corpus(dir.path(), "one");
  write_corpus(dir.path(), "two");
  expect_failure([&] { Corpus::open(dir.path().string()); }, Exit::kBadData,
                 {dir.path().string(), "one.json", "two.json"});
  EXPECT_EQ(Corpus::open((dir / "two.json").string()).info().name, "two");
}

TEST(CorpusDamage, NothingThere) {
  const TempDir dir;
  fs::create_directory(dir / "train");
  expect_failure([&] { Corpus::open(dir.path().string()); }, Exit::kNoInput,
                 {dir.path().string(), "folders: train"});
  expect_failure([&] { Corpus::open((dir / "none.json").string()); }, Exit::kNoInput,
                 {(dir / "none.json").string()});
}

TEST(CorpusDamage, ManifestIsNotJson) {
  const TempDir dir;
  write_file(dir / "x.json", "{\"schema\": ");
  expect_failure([&] { Corpus::open((dir / "x.json").string()); }, Exit::kBadData, {"x.json"});
}

// verify says nothing of a sound corpus, and one line of each problem of a damaged one.
TEST(CorpusVerify, ListsEveryProblem) {
  const TempDir dir;
  const CorpusInfo info = write_corpus(dir.path());
  EXPECT_EQ(verify_corpus(dir.path()), std::vector<std::string>{});
  fs::remove(info.shards[1].file);
  fs::resize_file(info.shards[0].file, 100);
  EXPECT_EQ(verify_corpus(dir.path()).size(), 2U);
}

}  // namespace
}  // namespace moesaic::data
