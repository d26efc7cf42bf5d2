// One errno, one exit code; and a file of a later program is neither damaged nor unreadable.
#include "base/io_error.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <filesystem>

#include "files/format_version.h"
#include "files/problems.h"

namespace moesaic {
namespace {

namespace fs = std::filesystem;

Exit code_of(const std::function<void()>& step) {
  try {
    step();
  } catch (const Error& error) {
    return error.code();
  }
  return Exit::kDone;
}

// Protects: what storage or network failed is tried again, what is not there is not.
TEST(IoError, CodesOfReads) {
  for (const int error : {EIO, ESTALE, ETIMEDOUT, ENOTCONN, EINTR, EREMOTEIO, EHOSTDOWN}) {
    EXPECT_EQ(exit_of_read(error), Exit::kIoError) << error;
  }
  for (const int error : {ENOENT, EACCES, ENOTDIR, EISDIR, ELOOP}) {
    EXPECT_EQ(exit_of_read(error), Exit::kNoInput) << error;
  }
}

// Protects: a job that cannot make its outputs is not put back into the queue; one whose disk fails
// later is.
TEST(IoError, CodesOfWrites) {
  for (const int error : {EACCES, EROFS, ENOSPC, EDQUOT, ENOENT}) {
    const auto write = [&] { throw WriteError(error, "text"); };
    EXPECT_EQ(code_of(write), Exit::kIoError) << error;
    EXPECT_EQ(code_of([&] { at_start(write); }), Exit::kCannotCreate) << error;
  }
  for (const int error : {EIO, ESTALE, 0}) {
    EXPECT_EQ(code_of([&] { at_start([&] { throw WriteError(error, "text"); }); }), Exit::kIoError);
  }
  EXPECT_EQ(code_of([] { at_start([] { throw Error(Exit::kMismatch, "text"); }); }),
            Exit::kMismatch);
}

// Protects: what the standard library throws keeps its path, reason and code.
TEST(IoError, FilesystemErrors) {
  const auto of = [](int number) {
    return to_error(
        fs::filesystem_error("what", "/a/path", std::error_code(number, std::generic_category())));
  };
  EXPECT_EQ(of(ENOENT).code(), Exit::kNoInput);
  EXPECT_EQ(of(ELOOP).code(), Exit::kNoInput);
  EXPECT_EQ(of(EACCES).code(), Exit::kNoInput);
  EXPECT_EQ(of(EROFS).code(), Exit::kCannotCreate);
  EXPECT_EQ(of(ENOSPC).code(), Exit::kCannotCreate);
  EXPECT_EQ(of(EIO).code(), Exit::kIoError);
  EXPECT_EQ(of(ESTALE).code(), Exit::kIoError);
  EXPECT_EQ(std::string(of(ENOENT).what()), "/a/path: No such file or directory");
}

// Protects: a verdict on a file that could not be read, or that a later program wrote, is none.
TEST(Problems, OnlyDamageIsAProblem) {
  files::Problems problems;
  files::note(problems, [] { throw Error(Exit::kBadData, "wrong checksum"); });
  EXPECT_EQ(problems, files::Problems{"wrong checksum"});
  EXPECT_THROW(files::note(problems, [] { throw Error(Exit::kIoError, "stale handle"); }), Error);

  const auto summary = [](const std::function<void()>& fail) {
    return files::unless_damaged([&]() -> std::optional<int> {
      fail();
      return 1;
    });
  };
  EXPECT_EQ(summary([] {}), 1);
  EXPECT_FALSE(summary([] { throw Error(Exit::kBadData, "cut"); }));
  EXPECT_THROW(summary([] { throw Error(Exit::kIoError, "stale handle"); }), Error);
  EXPECT_THROW(summary([] { files::check_format("f.h5", "moesaic-trace", 3, "moesaic-trace", 1); }),
               files::NewerFormat);
}

// Protects: both numbers are said.
TEST(Format, Versions) {
  files::check_format("f.h5", "moesaic-trace", 2, "moesaic-trace", 2);
  try {
    files::check_format("f.h5", "moesaic-trace", 3, "moesaic-trace", 2);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Exit::kBadData);
    EXPECT_NE(std::string(error.what()).find("version 3 of moesaic-trace"), std::string::npos);
    EXPECT_NE(std::string(error.what()).find("up to version 2"), std::string::npos);
    EXPECT_FALSE(files::is_damage(error));
  }
  EXPECT_EQ(code_of([] { files::check_format("f.h5", "other", 1, "moesaic-trace", 2); }),
            Exit::kBadData);
}

}  // namespace
}  // namespace moesaic
