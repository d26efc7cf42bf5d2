// What a sample costs to read, what other programs' corpora may look like, and ids of any length.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <hdf5.h>

#include <algorithm>
#include <fstream>
#include <random>

#include "base/error.h"
#include "data/corpus/columns.h"
#include "data/corpus/corpus.h"
#include "data/corpus/shard.h"
#include "files/hdf5/thread.h"
#include "support/temp_dir.h"

namespace moesaic::data {
namespace {

using moesaic::testing::TempDir;
namespace fs = std::filesystem;

// Bytes that this process has read from files so far.
std::int64_t bytes_read() {
  std::ifstream in("/proc/self/io");
  std::string name;
  std::int64_t bytes = 0;
  in >> name >> bytes;
  return name == "rchar:" ? bytes : -1;
}

// A shard of many documents of 0 to 60 tokens, some with contexts and tasks.
ShardInfo write_shard(const fs::path& file, int documents, bool compress, bool plain) {
  return files::hdf5_run([&] {
    ShardHeader header;
    header.vocab_size = 1000;
    header.task_names = {"none", "code"};
    ShardWriter writer(file, header, compress);
    std::mt19937 draw(7);
    for (int d = 0; d < documents; ++d) {
      DocumentRecord record;
      record.tokens.resize(draw() % 61);
      std::generate(record.tokens.begin(), record.tokens.end(),
                    [&] { return static_cast<std::int32_t>(draw() % 1000); });
      if (!plain && d > documents / 2) {
        record.context = std::min<std::int64_t>(3, std::ssize(record.tokens));
        record.task = static_cast<std::uint8_t>(d % 2);
      }
      record.bytes = std::ssize(record.tokens);
      record.id = std::to_string(d);
      writer.add(record);
    }
    return writer.finish();
  });
}

// Any span says of its tokens what the whole table says, with small chunks and large ones.
TEST(CorpusColumns, SpansAgreeWithTables) {
  const TempDir dir;
  for (const bool compress : {false, true}) {
    const fs::path file = dir / (compress ? "b.h5" : "a.h5");
    const ShardInfo info = write_shard(file, 20000, compress, false);
    Corpus corpus = Corpus::open(file.string());
    const ShardDocuments table = files::hdf5_run([&] { return corpus.documents(0); });
    const auto tokens = files::hdf5_run([&] { return corpus.shard_tokens(0, 0, info.tokens); });
    std::mt19937 draw(3);
    for (int i = 0; i < 300; ++i) {
      const std::int64_t begin = i == 0 ? 0 : static_cast<std::int64_t>(draw()) % info.tokens;
      const std::int64_t count = std::min<std::int64_t>(info.tokens - begin, 1 + draw() % 300);
      const TokenSpan span = files::hdf5_run([&] { return corpus.read(begin, count); });
      for (std::size_t t = 0; t < static_cast<std::size_t>(count); ++t) {
        const std::int64_t at = begin + static_cast<std::int64_t>(t);
        const auto after = std::upper_bound(table.offsets.begin(), table.offsets.end(), at);
        const auto d = static_cast<std::size_t>(after - table.offsets.begin() - 1);
        ASSERT_EQ(span.token[t], tokens[static_cast<std::size_t>(at)]);
        ASSERT_EQ(span.document[t], static_cast<std::int64_t>(d));
        ASSERT_EQ(span.document_begin[t], table.offsets[d]);
        const std::int64_t position = at - table.offsets[d];
        ASSERT_EQ(span.target[t], position > 0 && position >= table.context[d] ? 1 : 0);
        ASSERT_EQ(span.task[t], table.task[d]);
      }
    }
  }
}

// Beyond the chunks of its tokens a sample reads at most 8 KiB of a shard with many documents.
TEST(CorpusColumns, SamplesReadLittle) {
  if (bytes_read() < 0) {
    GTEST_SKIP() << "this system does not count what is read";
  }
  constexpr std::int64_t kSample = 64, kSamples = 100, kChunk = 16384 + 4, kChunkTokens = 8192;
  for (const bool plain : {true, false}) {
    const TempDir dir;
    const ShardInfo info = write_shard(dir / "a.h5", 100000, false, plain);
    Corpus corpus = Corpus::open((dir / "a.h5").string());
    files::hdf5_run([&] {
      EXPECT_EQ(files::Hdf5File::open(dir / "a.h5").chunk("/tokens"), files::Extents{kChunkTokens});
      corpus.read(0, kSample);
      const std::int64_t before = bytes_read();
      std::int64_t chunks = 0;
      std::mt19937 draw(5);
      for (int i = 0; i < kSamples; ++i) {
        const std::int64_t begin = static_cast<std::int64_t>(draw()) % (info.tokens - kSample);
        corpus.read(begin, kSample);
        chunks += (begin + kSample - 1) / kChunkTokens - begin / kChunkTokens + 1;
      }
      EXPECT_LE(bytes_read() - before, chunks * kChunk + kSamples * 8192);
    });
  }
}

// The first sample of a shard, which has to be opened, reads little as well.
TEST(CorpusColumns, FirstSampleReadsLittle) {
  if (bytes_read() < 0) {
    GTEST_SKIP() << "this system does not count what is read";
  }
  const TempDir dir;
  const ShardInfo info = write_shard(dir / "a.h5", 100000, false, true);
  Corpus corpus = Corpus::open((dir / "a.h5").string());
  const std::int64_t before = bytes_read();
  files::hdf5_run([&] { corpus.read(info.tokens / 2, 64); });
  EXPECT_LE(bytes_read() - before, 2 * 16388 + 20000);  // the table has 800 kB
}

// Zeros take no room, and are there.
TEST(CorpusColumns, ZerosTakeNoRoom) {
  const TempDir dir;
  write_shard(dir / "plain.h5", 5000, false, true);
  write_shard(dir / "pairs.h5", 5000, false, false);
  files::hdf5_run([&] {
    const auto context =
        files::Hdf5File::open(dir / "plain.h5").read_all<std::int64_t>("/documents/context");
    EXPECT_EQ(context, std::vector<std::int64_t>(5000, 0));
  });
  EXPECT_LT(fs::file_size(dir / "plain.h5") + 18000, fs::file_size(dir / "pairs.h5"));
}

// One id of many bytes costs these bytes, not as many for each document; all come back whole.
TEST(CorpusColumns, LongIdsCostTheirBytes) {
  const TempDir dir;
  std::vector<std::string> ids(20000);
  for (std::size_t i = 0; i < ids.size(); ++i) {
    ids[i] = fmt::format("document {}", i);
  }
  ids[7] = std::string(8000, 'x') + "7";
  ids[19999] = "";
  for (int i = 0; i < 300; ++i) {
    ids[8] += "語";  // is not cut within a character
  }
  files::hdf5_run([&] {
    files::Hdf5File file = files::Hdf5File::create(dir / "a.h5");
    write_texts(file, "/documents/id", ids, {.chunk = {4096}});
    EXPECT_LE(file.string_width("/documents/id"), 64);
    EXPECT_EQ(read_texts(file, "/documents/id"), ids);
    EXPECT_EQ((file.read_strings("/documents/id")[8].size() - 10) % 3, 0U);  // "document 8"
    const std::vector<std::string> alike(10, std::string(500, 'y'));
    write_texts(file, "/alike", alike, {});
    EXPECT_EQ(file.read_strings("/alike"), alike);
    EXPECT_FALSE(file.has("/alike_long"));
    file.close();
  });
  EXPECT_LT(fs::file_size(dir / "a.h5"), 2'000'000U);
}

// A corpus of another program: tokens and offsets of any whole type, attributes as doubles.
template <class T, class O>
fs::path write_other(const fs::path& file, const std::vector<T>& tokens,
                     const std::vector<O>& offsets) {
  files::hdf5_run([&] {
    files::Hdf5File out = files::Hdf5File::create(file);
    out.set_attribute("/", "schema", std::string("moesaic-corpus"));
    out.set_attribute("/", "version", 1.0);
    out.set_attribute("/", "vocab_size", 200.0);
    out.write_all<T>("/tokens", {std::ssize(tokens)}, tokens);
    out.write_all<O>("/documents/offsets", {std::ssize(offsets)}, offsets);
    out.close();
  });
  return file;
}

std::string told(const fs::path& file) {
  try {
    Corpus corpus = Corpus::open(file.string());
    std::string text;
    for (const std::int32_t token :
         files::hdf5_run([&] { return corpus.read(0, corpus.info().tokens); }).token) {
      text += std::to_string(token) + " ";
    }
    return text;
  } catch (const Error& error) {
    return std::to_string(static_cast<int>(error.code())) + " " + error.what();
  }
}

TEST(CorpusColumns, TakesWholeNumbersOfAnyType) {
  const TempDir dir;
  EXPECT_EQ(told(write_other<std::int64_t, std::int64_t>(dir / "a.h5", {7, 199}, {0, 2})),
            "7 199 ");
  EXPECT_EQ(told(write_other<std::uint8_t, std::int32_t>(dir / "b.h5", {7, 199}, {0, 1, 2})),
            "7 199 ");
  EXPECT_EQ(told(write_other<std::int8_t, std::uint16_t>(dir / "c.h5", {7, 0}, {0, 2})), "7 0 ");
  EXPECT_EQ(told(write_other<std::uint64_t, std::uint8_t>(dir / "d.h5", {7, 0}, {0, 2})), "7 0 ");
  EXPECT_TRUE(verify_corpus(dir / "a.h5").empty());
  for (const auto& [file, value] : std::vector<std::pair<fs::path, std::string>>{
           {write_other<std::int32_t, std::int64_t>(dir / "e.h5", {7, -1}, {0, 2}), "token -1 "},
           {write_other<std::int64_t, std::int64_t>(dir / "f.h5", {7, 5000000000}, {0, 2}),
            "token 5000000000 "},
           {write_other<std::int16_t, std::int64_t>(dir / "g.h5", {7, 200}, {0, 2}), "token 200 "},
           {write_other<std::int16_t, std::int64_t>(dir / "h.h5", {7, 2}, {-1, 2}),
            "begins with -1"},
           {write_other<float, std::int64_t>(dir / "i.h5", {7, 2}, {0, 2}), "/tokens is f4"}}) {
    EXPECT_NE(told(file).find(value), std::string::npos) << told(file);
    EXPECT_EQ(told(file).substr(0, 3), "65 ");
  }
}

// What is missing is named with all that a corpus needs.
TEST(CorpusColumns, NamesWhatIsMissing) {
  const TempDir dir;
  files::hdf5_run([&] {
    files::Hdf5File out = files::Hdf5File::create(dir / "a.h5");
    out.set_attribute("/", "schema", std::string("moesaic-corpus"));
    out.set_attribute("/", "version", std::int64_t{1});
    out.close();
  });
  for (const char* const word :
       {"65 ", "no attribute 'vocab_size'", "/documents/offsets", "README"}) {
    EXPECT_NE(told(dir / "a.h5").find(word), std::string::npos) << told(dir / "a.h5");
  }
}

// A filter that HDF5 has not is named, with what takes it away.
TEST(CorpusColumns, NamesUnknownFilters) {
  const TempDir dir;
  const fs::path file = write_other<std::int32_t, std::int64_t>(dir / "a.h5", {}, {0});
  files::hdf5_run([&] {
    const hid_t id = H5Fopen(file.c_str(), H5F_ACC_RDWR, H5P_DEFAULT);
    H5Ldelete(id, "/tokens", H5P_DEFAULT);
    H5Ldelete(id, "/documents/offsets", H5P_DEFAULT);
    constexpr H5Z_filter_t kFilter = 32015;  // Zstandard, registered by The HDF Group
    const H5Z_class2_t zstd = {H5Z_CLASS_T_VERS,
                               kFilter,
                               1,
                               1,
                               "zstd of a test",
                               nullptr,
                               nullptr,
                               [](unsigned, std::size_t, const unsigned*, std::size_t bytes,
                                  std::size_t*, void**) { return bytes; }};
    H5Zregister(&zstd);
    const hsize_t two = 2;
    const hid_t list = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_chunk(list, 1, &two);
    H5Pset_filter(list, kFilter, H5Z_FLAG_MANDATORY, 0, nullptr);
    const hid_t space = H5Screate_simple(1, &two, nullptr);
    for (const char* const name : {"/tokens", "/documents/offsets"}) {
      const std::int64_t values[2] = {0, 2};
      const hid_t data = H5Dcreate(id, name, H5T_STD_I64LE, space, H5P_DEFAULT, list, H5P_DEFAULT);
      H5Dwrite(data, H5T_STD_I64LE, H5S_ALL, H5S_ALL, H5P_DEFAULT, values);
      H5Dclose(data);
    }
    H5Sclose(space);
    H5Pclose(list);
    H5Fclose(id);
    H5Zunregister(kFilter);
  });
  for (const char* const word : {"65 ", "32015", "zstd of a test", "h5repack"}) {
    EXPECT_NE(told(file).find(word), std::string::npos) << told(file);
  }
}

}  // namespace
}  // namespace moesaic::data
