#include <gtest/gtest.h>

#include "base/error.h"
#include "files/disk_space.h"
#include "files/durable.h"
#include "support/temp_dir.h"

namespace moesaic::files {
namespace {

using moesaic::testing::TempDir;

// A whole file replaces the old one and leaves no temporary.
TEST(Files, WriteWhole) {
  const TempDir dir;
  write_whole(dir / "a.txt", "one");
  write_whole(dir / "a.txt", "two");
  EXPECT_EQ(read_whole(dir / "a.txt"), "two");
  EXPECT_EQ(read_end(dir / "a.txt", 2), "wo");
  EXPECT_EQ(read_end(dir / "a.txt", 5), "two");
  EXPECT_FALSE(std::filesystem::exists(dir / "a.txt.tmp"));
}

// Errors carry the code, the absolute path and the reason.
TEST(Files, Errors) {
  const TempDir dir;
  try {
    read_whole(dir / "none");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Exit::kNoInput);
    EXPECT_NE(std::string(error.what()).find((dir / "none").string()), std::string::npos);
    EXPECT_NE(std::string(error.what()).find("No such file"), std::string::npos);
  }
  try {
    write_whole(dir / "none" / "a", "x");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Exit::kIoError);
  }
  write_whole(dir / "file", "x");
  try {
    make_folder(dir / "file" / "below");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Exit::kCannotCreate);
  }
  EXPECT_THROW(read_whole(dir.path()), Error);
}

// Nothing is overwritten: older files move to the first free number.
TEST(Files, SetAside) {
  const TempDir dir;
  EXPECT_TRUE(set_aside(dir / "t.h5").empty());
  write_whole(dir / "t.h5", "1");
  EXPECT_EQ(set_aside(dir / "t.h5"), dir / "t.h5.1");
  write_whole(dir / "t.h5", "2");
  EXPECT_EQ(set_aside(dir / "t.h5"), dir / "t.h5.2");
  EXPECT_EQ(read_whole(dir / "t.h5.1"), "1");
  EXPECT_EQ(read_whole(dir / "t.h5.2"), "2");
}

// The known digest of three bytes.
TEST(Files, Sha256) {
  const TempDir dir;
  write_whole(dir / "abc", "abc");
  EXPECT_EQ(sha256_of_file(dir / "abc"),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

// Outputs on one filesystem are added up; what they need, what is free and the remedy are told.
TEST(Files, Space) {
  const TempDir dir;
  write_whole(dir / "a.txt", "12345");
  write_whole(dir / "b.txt", "123");
  EXPECT_EQ(bytes_below(dir.path()), 8.0);
  EXPECT_EQ(bytes_below(dir / "b.txt"), 3.0);
  EXPECT_EQ(bytes_below(dir / "none"), 0.0);
  const auto free = static_cast<double>(std::filesystem::space(dir.path()).available);
  check_space({{"a trace", dir / "t.h5", 1000.0}, {"scores", dir.path(), 1000.0}}, "free some");
  try {
    check_space({{"a trace", dir / "t.h5", 0.7 * free}, {"scores", dir.path(), 0.7 * free}},
                "free some");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Exit::kCannotCreate);
    const std::string text = error.what();
    for (const char* part : {"the outputs need", "are free: free some", "a trace ", "; scores "}) {
      EXPECT_NE(text.find(part), std::string::npos) << text;
    }
  }
}

}  // namespace
}  // namespace moesaic::files
