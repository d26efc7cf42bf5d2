// What `tokenize` costs and how it ends: packed text is unpacked once by each rank that writes of
// it, lost shards are made again, long lists go between ranks in pieces.
#include <gtest/gtest.h>
#include <zlib.h>

#include <fstream>
#include <functional>
#include <random>

#include "base/error.h"
#include "cli/jobs.h"
#include "comm/pieces.h"
#include "data/corpus/corpus.h"
#include "data/corpus/manifest.h"
#include "support/shared_dir.h"

namespace moesaic::data {
namespace {

using moesaic::testing::read_file;
using moesaic::testing::SharedDir;
using moesaic::testing::write_file;
namespace fs = std::filesystem;

config::Config config_for(const SharedDir& dir, const std::string& input) {
  config::Config config;
  config.tokenize.input = {(dir.path / input).string()};
  config.tokenize.output = (dir.path / "corpus").string();
  return config;
}

void write(const SharedDir& dir, const std::string& name, const std::string& text) {
  if (dir.world.is_root()) {
    write_file(dir.path / name, text);
  }
  dir.world.barrier();
}

// The code of what is thrown, and its message.
std::pair<int, std::string> failure(const std::function<void()>& work) {
  try {
    work();
  } catch (const Error& error) {
    return {static_cast<int>(error.code()), error.what()};
  }
  return {0, ""};
}

// Bytes that this process has read from files so far.
std::int64_t bytes_read() {
  std::ifstream in("/proc/self/io");
  std::string name;
  std::int64_t bytes = 0;
  in >> name >> bytes;
  return bytes;
}

// A packed file is read by its scanning rank once and by each writing rank once, whatever the
// number of shards, also where documents are held out.
TEST(TokenizeCost, UnpacksOnce) {
  const SharedDir dir;
  const fs::path file = dir.path / "t.jsonl.gz";
  if (dir.world.is_root()) {
    const gzFile out = gzopen(file.c_str(), "wb");
    std::mt19937 draw(1);
    for (int i = 0; i < 4000; ++i) {
      std::string line = "{\"text\": \"";
      for (int c = 0; c < 500; ++c) {
        line += static_cast<char>('a' + draw() % 26);
      }
      gzputs(out, (line + "\"}\n").c_str());
    }
    gzclose(out);
  }
  dir.world.barrier();
  config::Config config = config_for(dir, "t.jsonl.gz");
  config.tokenize.shards = 32;
  config.tokenize.holdout = 0.3;
  const std::int64_t before = bytes_read();
  EXPECT_EQ(cli::tokenize(config, dir.world), 0);
  const std::int64_t read = bytes_read() - before;
  // The shards are read back for their sums: about 2.4 bytes for a byte of text.
  const auto packed = static_cast<std::int64_t>(fs::file_size(file));
  const std::int64_t shards = 4000 * 500 * 5 / 2;
  EXPECT_LT(read, 3 * packed + shards / dir.world.size() + 4'000'000);
  EXPECT_GT(16 * packed, 3 * packed + shards + 4'000'000);  // as one reader a shard would need
  dir.world.barrier();
}

// A corpus whose shards are gone or cut is not "there already": it is made again, the same.
TEST(TokenizeCost, MakesLostShardsAgain) {
  const SharedDir dir;
  write(dir, "t.jsonl", "{\"text\": \"one\"}\n{\"text\": \"two\"}\n");
  config::Config config = config_for(dir, "t.jsonl");
  config.tokenize.shards = 2;
  EXPECT_EQ(cli::tokenize(config, dir.world), 0);
  const fs::path shard = dir.path / "corpus/corpus-00001-of-00002.h5";
  const std::string before = read_file(shard);
  dir.world.barrier();
  if (dir.world.is_root()) {
    fs::remove(shard);
  }
  dir.world.barrier();
  EXPECT_EQ(cli::tokenize(config, dir.world), 0);
  EXPECT_EQ(read_file(shard), before);
  dir.world.barrier();
  if (dir.world.is_root()) {
    fs::resize_file(shard, 100);
  }
  dir.world.barrier();
  EXPECT_EQ(cli::tokenize(config, dir.world), 0);
  EXPECT_EQ(read_file(shard), before);
  dir.world.barrier();
}

// Input without text is an error, not a corpus without text.
TEST(TokenizeCost, RefusesEmptyInput) {
  const SharedDir dir;
  write(dir, "t.jsonl", "\n\n");
  const auto [code, message] =
      failure([&] { cli::tokenize(config_for(dir, "t.jsonl"), dir.world); });
  EXPECT_EQ(code, 66);
  EXPECT_NE(message.find("there is no text in"), std::string::npos) << message;
  EXPECT_FALSE(fs::exists(dir.path / "corpus"));
  dir.world.barrier();
}

// A vocabulary that the text cannot fill is said to be smaller than what was asked for.
TEST(TokenizeCost, SaysThatAVocabularyIsSmall) {
  const SharedDir dir;
  write(dir, "t.txt", "a few words and a few words more, over and over: words, words, words");
  config::Config config = config_for(dir, "t.txt");
  config.tokenize.tokenizer = "train";
  config.tokenize.vocab_size = 30000;
  ::testing::internal::CaptureStderr();
  EXPECT_EQ(cli::tokenize(config, dir.world), 0);
  const std::string told = ::testing::internal::GetCapturedStderr();
  EXPECT_LT(Corpus::open(config.tokenize.output).info().vocab_size, 30000);
  if (dir.world.is_root()) {
    EXPECT_NE(told.find("smaller than tokenize.vocab_size = 30000"), std::string::npos) << told;
  }
  dir.world.barrier();
}

// A text is bounded while it is read; on_error=skip leaves it out.
TEST(TokenizeCost, BoundsDocuments) {
  const SharedDir dir;
  write(dir, "t.jsonl", "{\"text\": \"" + std::string(5000, 'a') + "\"}\n{\"text\": \"two\"}\n");
  config::Config config = config_for(dir, "t.jsonl");
  config.tokenize.max_document = 1000;
  const auto [code, message] = failure([&] { cli::tokenize(config, dir.world); });
  EXPECT_EQ(code, 65);
  EXPECT_NE(message.find("t.jsonl:1 is longer than tokenize.max_document = 1000"),
            std::string::npos)
      << message;
  config.tokenize.on_error = config::OnError::kSkip;
  EXPECT_EQ(cli::tokenize(config, dir.world), 0);
  EXPECT_EQ(Corpus::open(config.tokenize.output).info().source_bytes, 3);
  dir.world.barrier();
}

// A corpus and its tokenizer below an input are no text: a second run finds the same input.
TEST(TokenizeCost, LeavesOutCorpora) {
  const SharedDir dir;
  write(dir, "t.txt", "some text");
  config::Config config = config_for(dir, ".");
  EXPECT_EQ(cli::tokenize(config, dir.world), 0);
  const std::string manifest = read_file(dir.path / "corpus/corpus.json");
  dir.world.barrier();
  EXPECT_EQ(cli::tokenize(config, dir.world), 0);
  EXPECT_EQ(read_file(dir.path / "corpus/corpus.json"), manifest);
  EXPECT_EQ(Corpus::open(config.tokenize.output).info().documents, 1);
  dir.world.barrier();
}

// In pieces of any size every list arrives as it is.
TEST(TokenizeCost, SendsInPieces) {
  const auto world = comm::Communicator::world();
  for (const std::int64_t most : {1, 7, 64, 1000}) {
    std::vector<std::vector<std::uint64_t>> send;
    for (int to = 0; to < world.size(); ++to) {
      send.emplace_back();
      for (int i = 0; i < 13 * to + 5 * world.rank(); ++i) {
        send.back().push_back(static_cast<std::uint64_t>(1000 * world.rank() + 100 * to + i));
      }
    }
    const auto received = comm::all_to_all_in_pieces(world, send, most);
    for (int from = 0; from < world.size(); ++from) {
      std::vector<std::uint64_t> expected;
      for (int i = 0; i < 13 * world.rank() + 5 * from; ++i) {
        expected.push_back(static_cast<std::uint64_t>(1000 * from + 100 * world.rank() + i));
      }
      EXPECT_EQ(received[static_cast<std::size_t>(from)], expected);
    }
    std::string text = world.is_root() ? std::string(100, 'x') + "end" : "other";
    comm::broadcast_in_pieces(world, text, 0, most);
    EXPECT_EQ(text, std::string(100, 'x') + "end");
  }
}

}  // namespace
}  // namespace moesaic::data
