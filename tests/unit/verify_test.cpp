// The job `verify` tells what each path is, and ends with the code of what is wrong.
#include "cli/verify.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "cli/tokenize.h"
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
