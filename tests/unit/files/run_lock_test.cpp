#include "files/run_lock.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <functional>

#include "base/error.h"
#include "support/temp_dir.h"

namespace moesaic::files {
namespace {

namespace fs = std::filesystem;
using moesaic::testing::TempDir;

void expect_taken(const std::function<void()>& lock) {
  try {
    lock();
    FAIL() << "it was free";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Exit::kCannotCreate);
    const std::string text = error.what();
    EXPECT_NE(text.find(fmt::format("process {}", getpid())), std::string::npos) << text;
  }
}

// Protects: a second job is told who holds the folder; one that has ended is no obstacle.
TEST(RunLock, Folder) {
  const TempDir dir;
  {
    const RunLock lock = RunLock::of_folder(dir.path());
    expect_taken([&] { RunLock::of_folder(dir.path()); });
  }
  const RunLock next = RunLock::of_folder(dir.path());
  EXPECT_TRUE(fs::exists(dir / "lock"));
}

// Protects: one output has one lock, whatever it is called, and nothing of it stays.
TEST(RunLock, Beside) {
  const TempDir dir;
  fs::create_directory(dir / "real");
  fs::create_directory_symlink(dir / "real", dir / "link");
  {
    const RunLock lock = RunLock::beside(dir / "real" / "trace.h5");
    EXPECT_TRUE(fs::exists(dir / "real" / ".trace.h5.lock"));
    expect_taken([&] { RunLock::beside(dir / "link" / "trace.h5"); });
    expect_taken([&] { RunLock::beside(dir / "real" / ".." / "link" / "trace.h5"); });
    const RunLock other = RunLock::beside(dir / "real" / "other.h5");
    const RunLock folder = RunLock::beside(dir.path() / "new" / "corpus" / "");
    expect_taken([&] { RunLock::beside(dir.path() / "new" / "corpus"); });
  }
  EXPECT_TRUE(fs::is_empty(dir / "real"));
  EXPECT_TRUE(fs::is_empty(dir / "new"));
}

// Protects: a colleague of the same group can go on with a run, where the umask says so.
TEST(RunLock, Umask) {
  const TempDir dir;
  for (const mode_t mask : {mode_t{002}, mode_t{027}}) {
    const mode_t before = umask(mask);
    const RunLock lock = RunLock::beside(dir / fmt::format("{}", mask));
    umask(before);
    struct stat status {};
    ASSERT_EQ(stat((dir / fmt::format(".{}.lock", mask)).c_str(), &status), 0);
    EXPECT_EQ(status.st_mode & 0777U, 0666U & ~mask);
  }
}

}  // namespace
}  // namespace moesaic::files
