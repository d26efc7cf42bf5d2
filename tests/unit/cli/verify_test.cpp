// The job `verify` tells what each path is, and ends with the code of what is wrong.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>

#include "cli/jobs.h"
#include "cli/judge.h"
#include "data/corpus/manifest.h"
#include "data/corpus/shard.h"
#include "support/temp_dir.h"

namespace moesaic::cli {
namespace {

using moesaic::testing::TempDir;
using moesaic::testing::write_file;

struct Output {
  int code;
  std::string text;
};

Output verify_and_capture(const std::vector<std::string>& paths) {
  ::testing::internal::CaptureStdout();
  int code = 0;
  for (const std::string& path : paths) {
    code = std::max(code, verify_here(path));
  }
  return {code, ::testing::internal::GetCapturedStdout()};
}

// A sound corpus is 0 with its numbers, damage 65 with its place, and a missing path 66.
TEST(Verify, JudgesCorpora) {
  const TempDir dir;
  write_file(dir / "a.txt", "some text");
  config::Config config;
  config.tokenize.input = {(dir / "a.txt").string()};
  config.tokenize.output = (dir / "corpus").string();
  tokenize(config, comm::Communicator());
  const std::string corpus = (dir / "corpus").string();
  const std::string shard = corpus + "/corpus-00000-of-00001.h5";

  const Output sound = verify_and_capture({corpus, shard, corpus + "/corpus.json"});
  EXPECT_EQ(sound.code, 0) << sound.text;
  EXPECT_NE(sound.text.find("1 documents, 10 tokens"), std::string::npos) << sound.text;
  EXPECT_EQ(verify_and_capture({corpus, (dir / "nowhere").string()}).code, 66);

  moesaic::testing::flip_bit(shard, -1);
  const Output damaged = verify_and_capture({corpus});
  EXPECT_EQ(damaged.code, 65);
  EXPECT_NE(damaged.text.find("sha256"), std::string::npos) << damaged.text;
}

// The limit of processor time follows what is read: of a manifest all its shards.
TEST(Verify, CountsWhatIsRead) {
  const TempDir dir;
  data::CorpusInfo info;
  info.name = "c";
  info.manifest = dir / "c.json";
  info.vocab_size = 9;
  for (int s = 0; s < 4; ++s) {
    info.shards.push_back({dir / data::shard_file_name("c", s, 4), 3'000'000'000, 1, 1, ""});
    write_file(info.shards.back().file, "");
    std::filesystem::resize_file(info.shards.back().file, 3'000'000'000);  // takes no room
  }
  data::write_corpus_manifest(info);
  EXPECT_GT(bytes_to_read(info.manifest.string()), 12e9);
  EXPECT_GT(bytes_to_read(dir.path().string()), 12e9);
  EXPECT_LT(bytes_to_read(info.shards[0].file.string()), 4e9);
  write_file(dir / "manifest.json", "{}");
  EXPECT_GT(bytes_to_read((dir / "manifest.json").string()), 12e9);
  write_file(dir / "scores.json", "{}");
  EXPECT_GT(bytes_to_read((dir / "scores.json").string()), 12e9);
}

// What may not be read, or leads in a circle, is 66 with its path, and never damaged.
TEST(Verify, DamageIsNotWhatCannotBeRead) {
  const TempDir dir;
  std::filesystem::create_symlink("loop", dir / "loop");
  ::testing::internal::CaptureStdout();
  EXPECT_EQ(verify({(dir / "loop").string()}), 66);  // in a process of its own
  const std::string text = ::testing::internal::GetCapturedStdout();
  EXPECT_EQ(text.find("damaged"), std::string::npos) << text;
  const Output looped = verify_and_capture({(dir / "loop").string()});
  EXPECT_EQ(looped.code, 66);
  EXPECT_NE(looped.text.find((dir / "loop").string()), std::string::npos) << looped.text;
  std::filesystem::create_directory(dir / "folder");
  std::filesystem::permissions(dir / "folder", std::filesystem::perms::none);
  if (::access((dir / "folder").c_str(), R_OK) != 0) {  // root may read all
    EXPECT_EQ(verify_and_capture({(dir / "folder").string()}).code, 66);
  }
  std::filesystem::permissions(dir / "folder", std::filesystem::perms::owner_all);
}

// Other files are refused by name, not taken for something else.
TEST(Verify, RefusesOtherFiles) {
  const TempDir dir;
  write_file(dir / "x.h5", "no HDF5 at all");
  write_file(dir / "x.json", "{}");
  EXPECT_EQ(verify_and_capture({(dir / "x.h5").string()}).code, 65);
  EXPECT_EQ(verify_and_capture({(dir / "x.json").string()}).code, 65);
}

}  // namespace
}  // namespace moesaic::cli
