// Spans, groups and weights of documents: what is written is what is read, damage is named, and a
// corpus without them is a file of version 1.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <optional>

#include "base/error.h"
#include "data/corpus/corpus.h"
#include "data/corpus/manifest.h"
#include "data/corpus/shard.h"
#include "data/prompts.h"
#include "data/samples.h"
#include "files/hdf5/thread.h"
#include "support/temp_dir.h"

namespace moesaic::data {
namespace {

using moesaic::testing::read_file;
using moesaic::testing::TempDir;
namespace fs = std::filesystem;
using Ranges = std::vector<TokenRange>;

DocumentRecord document(std::int64_t tokens, std::int64_t context, std::optional<Ranges> spans,
                        std::int64_t group = 0, float weight = 1.0F) {
  DocumentRecord record;
  for (std::int64_t i = 0; i < tokens; ++i) {
    record.tokens.push_back(static_cast<std::int32_t>(10 + i));
  }
  record.context = context;
  record.bytes = tokens;
  record.id = fmt::format("d{}", tokens);
  record.spans = std::move(spans);
  record.group = group;
  record.weight = weight;
  return record;
}

CorpusInfo write_corpus(const fs::path& folder, bool spans,
                        const std::vector<std::vector<DocumentRecord>>& shards) {
  fs::create_directories(folder);
  CorpusInfo info;
  info.name = "tiny";
  info.manifest = folder / "tiny.json";
  info.vocab_size = 300;
  info.vocab_sha256 = "feed";
  info.task_names = {"none"};
  info.spans = spans;
  for (std::size_t s = 0; s < shards.size(); ++s) {
    ShardHeader header;
    header.vocab_size = 300;
    header.vocab_sha256 = "feed";
    header.shard_index = static_cast<std::int64_t>(s);
    header.shard_count = std::ssize(shards);
    header.spans = spans;
    info.shards.push_back(files::hdf5_run([&] {
      ShardWriter writer(folder / shard_file_name("tiny", header.shard_index, header.shard_count),
                         header, s == 1);
      for (const DocumentRecord& each : shards[s]) {
        writer.add(each);
      }
      return writer.finish();
    }));
    info.tokens += info.shards.back().tokens;
    info.documents += info.shards.back().documents;
    info.version = std::max(info.version, info.shards.back().version);
  }
  write_corpus_manifest(info);
  return info;
}

// Two turns; a pair; plain text; a target that is the first token; no target; an empty document.
std::vector<std::vector<DocumentRecord>> conversations() {
  return {
      {document(8, 0, Ranges{{2, 4}, {5, 8}}, 1, 0.5F), document(4, 3, {}, 1), document(3, 0, {})},
      {document(2, 0, Ranges{{0, 1}, {1, 2}}, 2, 3.0F), document(5, 5, Ranges{}),
       document(0, 0, {})},
      {}};
}

std::string failure(const std::function<void()>& work) {
  try {
    work();
  } catch (const Error& error) {
    return fmt::format("{} {}", static_cast<int>(error.code()), error.what());
  }
  return "";
}

void expect_words(const std::string& text, const std::vector<std::string>& words) {
  for (const std::string& word : words) {
    EXPECT_NE(text.find(word), std::string::npos) << "no '" << word << "' in: " << text;
  }
}

// A round trip keeps every column, and a document without spans of its own gets the rest behind its
// context.
TEST(CorpusTargets, ReadWhatWasWritten) {
  const TempDir dir;
  const CorpusInfo info = write_corpus(dir.path(), true, conversations());
  EXPECT_EQ(info.version, 2);
  Corpus corpus = Corpus::open(dir.path().string());
  EXPECT_TRUE(corpus.info().spans);
  EXPECT_EQ(corpus.info().version, 2);
  const ShardDocuments first = files::hdf5_run([&] { return corpus.documents(0); });
  EXPECT_EQ(first.spans.offsets, (std::vector<std::int64_t>{0, 2, 3, 4}));
  EXPECT_EQ(first.spans.ranges, (Ranges{{2, 4}, {5, 8}, {3, 4}, {0, 3}}));
  EXPECT_EQ(first.group, (std::vector<std::int64_t>{1, 1, 0}));
  EXPECT_EQ(first.weight, (std::vector<float>{0.5F, 1.0F, 1.0F}));
  EXPECT_EQ(first.targets(0), (Ranges{{2, 4}, {5, 8}}));
  EXPECT_EQ(first.targets(2), (Ranges{{1, 3}}));  // nothing lies before the first token
  const ShardDocuments second = files::hdf5_run([&] { return corpus.documents(1); });
  EXPECT_EQ(second.targets(0), (Ranges{{1, 2}}));
  EXPECT_EQ(second.targets(1), Ranges{});
  EXPECT_EQ(second.targets(2), Ranges{});
  const ShardDocuments none = files::hdf5_run([&] { return corpus.documents(2); });
  EXPECT_EQ(none.spans.offsets, (std::vector<std::int64_t>{0}));
  EXPECT_EQ(verify_corpus(dir.path()), std::vector<std::string>{});
  EXPECT_TRUE(Corpus::open((dir / "tiny-*.h5").string()).info().spans);
}

// A part of the stream says of its tokens what whole tables say; samples predict targets alone.
TEST(CorpusTargets, StreamHonoursSpans) {
  const TempDir dir;
  const CorpusInfo info = write_corpus(dir.path(), true, conversations());
  Corpus corpus = Corpus::open(dir.path().string());
  const std::vector<std::uint8_t> wanted = {0, 0, 1, 1, 0, 1, 1, 1, 0, 0, 0,
                                            1, 0, 1, 1, 0, 1, 0, 0, 0, 0, 0};
  files::hdf5_run([&] {
    for (std::int64_t begin = 0; begin <= info.tokens; ++begin) {
      for (std::int64_t end = begin; end <= info.tokens; ++end) {
        EXPECT_EQ(corpus.read(begin, end - begin).target,
                  std::vector<std::uint8_t>(wanted.begin() + begin, wanted.begin() + end));
      }
    }
  });
  Corpora corpora = Corpora::open({info});
  std::vector<std::string> tasks = {"none"};
  corpora.join_tasks(tasks);
  config::Data data;
  data.seq_len = 7;
  Samples samples = Samples::make(corpora, data, {});
  const auto sample = [&](std::int64_t i) {
    return files::hdf5_run([&] { return samples.read(samples.at(0, i)).at(0).target; });
  };
  EXPECT_EQ(sample(0), (std::vector<std::int32_t>{-1, 12, 13, -1, 15, 16, 17}));
  EXPECT_EQ(sample(1), (std::vector<std::int32_t>{-1, -1, -1, 13, -1, 11, 12}));
  EXPECT_EQ(sample(2), (std::vector<std::int32_t>{-1, 11, -1, -1, -1, -1, -1}));
  EXPECT_TRUE(files::hdf5_run([&] { return samples.has_target(samples.at(0, 2)); }));
}

// Spans of a shard with many chunks of columns are those of the whole table.
TEST(CorpusTargets, PartsAgreeWithTables) {
  const TempDir dir;
  std::vector<DocumentRecord> documents;
  for (std::int64_t d = 0; d < 3000; ++d) {
    Ranges spans;
    for (std::int64_t s = 0; s < d % 4; ++s) {
      spans.push_back({5 * s + 1, 5 * s + 2 + d % 3});
    }
    documents.push_back(document(5 * 4, 0, spans, 1 + d / 2, 1.0F + static_cast<float>(d % 5)));
  }
  write_corpus(dir.path(), true, {documents});
  files::hdf5_run([&] {
    const fs::path file = dir / shard_file_name("tiny", 0, 1);
    const ShardDocuments table = ShardReader(file).table();
    ShardReader reader(file);
    for (const std::int64_t d : {0, 2999, 1500, 700, 701, 2048}) {
      const auto at = static_cast<std::size_t>(d);
      const DocumentRun run = reader.documents_of(table.offsets[at], 20);
      ASSERT_EQ(run.first, d);
      EXPECT_EQ(run.targets(0), *documents[at].spans);
      EXPECT_EQ(run.targets(0), table.targets(at));
      EXPECT_EQ(run.weight, std::vector<float>{1.0F + static_cast<float>(d % 5)});
    }
  });
}

TEST(CorpusTargets, CountAndContain) {
  const Ranges ranges = {{2, 4}, {5, 8}};
  std::string held;
  for (std::int64_t i = 0; i < 10; ++i) {
    held += contains(ranges, i) ? '1' : '0';
  }
  EXPECT_EQ(held, "0011011100");
  EXPECT_EQ(count_of(ranges), 5);
  EXPECT_FALSE(contains({}, 0));
  EXPECT_EQ(targets_of({}, 0, 6, 2), (Ranges{{2, 6}}));
  EXPECT_EQ(targets_of({}, 0, 6, 0), (Ranges{{1, 6}}));
  EXPECT_EQ(targets_of({}, 0, 6, 6), Ranges{});
}

// What generate continues: all before the last span; without a span all of the document, also an
// eos that is written there; where nothing is given, as in a corpus without spans.
TEST(CorpusTargets, PromptsEndWhereTheLastSpanBegins) {
  const TempDir dir;
  DocumentRecord ended = document(3, 3, Ranges{});
  ended.tokens.back() = 256;
  DocumentRecord plain = document(3, 0, {});
  plain.tokens.back() = 256;
  CorpusInfo info =
      write_corpus(dir.path(), true,
                   {{document(8, 2, Ranges{{2, 4}, {5, 8}}), ended, document(4, 3, {}), plain}});
  info.eos_id = 256;
  Corpora corpora = Corpora::open({info});
  std::vector<std::string> tasks = {"none"};
  corpora.join_tasks(tasks);
  Prompts prompts(corpora);
  files::hdf5_run([&] {
    std::vector<std::vector<std::int32_t>> found;
    std::vector<std::int64_t> lengths;
    for (std::int64_t part = 0; part < prompts.parts(); ++part) {
      for (const Prompt& prompt : prompts.read(part)) {
        found.push_back(prompt.tokens);
      }
      for (const std::int64_t length : prompts.lengths(part)) {
        lengths.push_back(length);
      }
    }
    EXPECT_EQ(found, (std::vector<std::vector<std::int32_t>>{
                         {10, 11, 12, 13, 14}, {10, 11, 256}, {10, 11, 12}, {10, 11}}));
    EXPECT_EQ(lengths, (std::vector<std::int64_t>{5, 3, 3, 2}));
  });
}

// A corpus that uses none of this is as before: programs of version 1 read it.
TEST(CorpusTargets, WithoutThemVersionIsOne) {
  const TempDir dir;
  const CorpusInfo info =
      write_corpus(dir.path(), false, {{document(4, 1, {}), document(2, 0, {})}});
  EXPECT_EQ(info.version, 1);
  files::hdf5_run([&] {
    const files::Hdf5File file = files::Hdf5File::open(info.shards[0].file);
    EXPECT_EQ(file.int_attribute("/", "version"), 1);
    EXPECT_EQ(file.members("/documents"),
              (std::vector<std::string>{"bytes", "context", "id", "offsets", "task"}));
    Sha256 hash;
    hash_tokens(hash, std::vector<std::int32_t>{10, 11, 12, 13, 10, 11});
    hash_offsets(hash, std::vector<std::int64_t>{0, 4, 6});
    EXPECT_EQ(file.string_attribute("/", "content_sha256"), hash.hex());
  });
  const std::string manifest = read_file(info.manifest);
  EXPECT_EQ(manifest.find("spans"), std::string::npos);
  EXPECT_NE(manifest.find("\"version\": 1"), std::string::npos);
}

// Groups or weights alone need no spans, but the version.
TEST(CorpusTargets, GroupsAlone) {
  const TempDir dir;
  const CorpusInfo info =
      write_corpus(dir.path(), false, {{document(4, 1, {}, 1)}, {document(2, 0, {})}});
  EXPECT_EQ(info.version, 2);
  EXPECT_EQ(info.shards[1].version, 1);
  Corpus corpus = Corpus::open(dir.path().string());
  files::hdf5_run([&] {
    EXPECT_EQ(corpus.documents(0).group, std::vector<std::int64_t>{1});
    EXPECT_TRUE(corpus.documents(0).weight.empty());
    EXPECT_FALSE(corpus.documents(0).spans.exist());
    EXPECT_EQ(corpus.documents(0).targets(0), (Ranges{{1, 4}}));
    EXPECT_TRUE(corpus.documents(1).group.empty());
  });
}

// What a file says after one value of its columns was changed: by whole tables, by parts of the
// stream, and by verify.
void expect_refused(const std::function<void(files::Hdf5File&)>& change,
                    const std::vector<std::string>& words) {
  const TempDir dir;
  write_corpus(dir.path(), true, conversations());
  const fs::path file = dir / shard_file_name("tiny", 0, 3);
  files::hdf5_run([&] {
    files::Hdf5File open = files::Hdf5File::open_to_write(file);
    change(open);
    open.close();
  });
  std::vector<std::string> all = words;
  all.insert(all.begin(), {"65 ", file.filename().string()});
  expect_words(failure([&] { files::hdf5_run([&] { ShardReader(file).table(); }); }), all);
  expect_words(failure([&] { files::hdf5_run([&] { ShardReader(file).documents_of(0, 15); }); }),
               all);
  const auto problems = verify_corpus(file);
  ASSERT_FALSE(problems.empty());
  expect_words("65 " + problems[0], all);
}

template <class T>
std::function<void(files::Hdf5File&)> put(const std::string& name, std::int64_t at, T value) {
  return [=](files::Hdf5File& file) { file.write<T>(name, {at}, {1}, std::vector<T>{value}); };
}

TEST(CorpusTargetsDamage, IsNamed) {
  const std::string begin = "/documents/spans/begin", end = "/documents/spans/end";
  const std::string offsets = "/documents/spans/offsets";
  expect_refused(put<std::uint32_t>(begin, 1, 3),
                 {"document 0 of 8 tokens", "[3, 8)", "after position 4"});
  expect_refused(put<std::uint32_t>(begin, 0, 4), {"document 0", "[4, 4)", "not empty"});
  expect_refused(put<std::uint32_t>(end, 3, 9), {"document 2 of 3 tokens", "[0, 9)"});
  expect_refused(put<std::uint64_t>(offsets, 1, 5), {offsets, "not sorted", "3, after 5"});
  expect_refused(put<std::uint64_t>(offsets, 3, 3), {offsets, "but there are 4 spans"});
  expect_refused(put<std::uint64_t>(offsets, 0, 1), {offsets, "begins with 1"});
  expect_refused(put<float>("/documents/weight", 1, -2.0F), {"document 1", "weight of -2"});
  expect_refused(put<float>("/documents/weight", 1, NAN), {"document 1", "weight of nan"});
  expect_refused([](files::Hdf5File& file) { file.set_attribute("/", "version", std::int64_t{1}); },
                 {"/documents/spans", "'version' is 1", "version 2"});
}

// A change that is legal in itself is found by the hash of the content.
TEST(CorpusTargetsDamage, ContentHashCoversThem) {
  for (const auto& change :
       {put<std::uint32_t>("/documents/spans/end", 1, 7),
        put<std::uint64_t>("/documents/group", 2, 9), put<float>("/documents/weight", 2, 2.0F)}) {
    const TempDir dir;
    write_corpus(dir.path(), true, conversations());
    const fs::path file = dir / shard_file_name("tiny", 0, 3);
    EXPECT_TRUE(verify_corpus(file).empty());
    files::hdf5_run([&] {
      files::Hdf5File open = files::Hdf5File::open_to_write(file);
      change(open);
      open.close();
    });
    const auto problems = verify_corpus(file);
    ASSERT_EQ(problems.size(), 1U);
    expect_words(problems[0], {file.filename().string(), "content_sha256"});
  }
}

// All shards of a corpus have spans, or none.
TEST(CorpusTargetsDamage, SomeShardsWithoutSpans) {
  const TempDir dir;
  CorpusInfo info = write_corpus(dir / "with", true, {{document(4, 1, {})}});
  const CorpusInfo without = write_corpus(dir / "without", false, {{document(4, 1, {})}});
  info.spans = false;
  write_corpus_manifest(info);
  expect_words(failure([&] {
                 Corpus corpus = Corpus::open((dir / "with").string());
                 files::hdf5_run([&] { corpus.documents(0); });
               }),
               {"65 ", "tiny-00000-of-00001.h5", "/documents/spans", "tiny.json"});
  fs::copy_file(info.shards[0].file, dir / "a.h5");
  fs::copy_file(without.shards[0].file, dir / "b.h5");
  expect_words(failure([&] { Corpus::open((dir / "*.h5").string()); }),
               {"65 ", "a.h5", "b.h5", "only one has /documents/spans"});
}

}  // namespace
}  // namespace moesaic::data
