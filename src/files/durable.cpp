#include "files/durable.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <span>
#include <vector>

#include "base/io_error.h"
#include "base/sha256.h"
#include "files/descriptor.h"

namespace moesaic::files {
namespace {

namespace fs = std::filesystem;

/// A file that is read from its start on. Every failure is an Error.
class Reader {
 public:
  explicit Reader(const fs::path& file)
      : file_(file), descriptor_(::open(file.c_str(), O_RDONLY | O_CLOEXEC)) {
    if (!descriptor_.valid()) {
      fail_read(file_, errno);
    }
  }

  /// The next bytes, as many as there are up to the size of the block.
  std::size_t read(std::span<char> block) const {
    const std::ptrdiff_t got = read_some(descriptor_, block);
    if (got < 0) {
      fail_read(file_, errno);
    }
    return static_cast<std::size_t>(got);
  }

  std::string rest() const {
    constexpr std::size_t kBlock = std::size_t{1} << 16U;
    std::string text;
    std::size_t got = kBlock;
    while (got == kBlock) {
      text.resize(text.size() + kBlock);
      got = read(std::span(text).last(kBlock));
      text.resize(text.size() - kBlock + got);
    }
    return text;
  }

  void seek_to_last(std::int64_t bytes) const {
    const off_t size = ::lseek(descriptor_.number(), 0, SEEK_END);
    const off_t place = std::max<off_t>(0, size - static_cast<off_t>(bytes));
    if (size < 0 || ::lseek(descriptor_.number(), place, SEEK_SET) < 0) {
      fail_read(file_, errno);
    }
  }

 private:
  const fs::path& file_;
  Descriptor descriptor_;
};

fs::path folder_of(const fs::path& file) {
  return file.has_parent_path() ? file.parent_path() : fs::path(".");
}

}  // namespace

void fail_read(const fs::path& path, int error) {
  const char* const what = error == EISDIR ? "is a folder, not a file" : std::strerror(error);
  throw Error(exit_of_read(error), fmt::format("{}: {}{}", fs::absolute(path).string(),
                                               error == EISDIR ? "" : "cannot be read: ", what));
}

void fail_write(const fs::path& path, std::string_view what, int error) {
  std::string message =
      fmt::format("{}: cannot {}: {}", fs::absolute(path).string(), what, std::strerror(error));
  if (error == ENOSPC || error == EDQUOT) {
    std::error_code unknown;
    const fs::space_info space = fs::space(folder_of(path), unknown);
    message +=
        unknown ? " (remove files or raise the quota)"
                : fmt::format(" ({} bytes free; remove files or raise the quota)", space.available);
  }
  throw WriteError(error, message);
}

bool is_there(const fs::path& path) {
  struct stat status {};
  if (::stat(path.c_str(), &status) == 0) {
    return true;
  }
  if (errno != ENOENT && errno != ENOTDIR) {
    fail_read(path, errno);
  }
  return false;
}

bool is_folder(const fs::path& path) {
  struct stat status {};
  if (::stat(path.c_str(), &status) == 0) {
    return S_ISDIR(status.st_mode);
  }
  if (errno != ENOENT && errno != ENOTDIR) {
    fail_read(path, errno);
  }
  return false;
}

void sync(const fs::path& path) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) {
    fail_write(path, "open", errno);
  }
  // Some file systems cannot fsync a folder and say so with EINVAL: nothing is lost there.
  const bool failed = ::fsync(descriptor) != 0 && errno != EINVAL;
  const int error = errno;
  ::close(descriptor);
  if (failed) {
    fail_write(path, "fsync", error);
  }
}

void publish(const fs::path& temporary, const fs::path& final) {
  sync(temporary);
  if (::rename(temporary.c_str(), final.c_str()) != 0) {
    fail_write(final, fmt::format("rename {} to it", temporary.string()), errno);
  }
  sync(folder_of(final));
}

void write_whole(const fs::path& file, const std::string& text) {
  fs::path temporary = file;
  temporary += ".tmp";
  Descriptor out(::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666));
  if (!out.valid() || write_all(out, std::as_bytes(std::span(text))) < 0 || out.close() != 0) {
    const int error = errno;
    std::error_code ignored;
    fs::remove(temporary, ignored);
    fail_write(file, "write", error);
  }
  try {
    publish(temporary, file);
  } catch (const Error&) {
    std::error_code ignored;
    fs::remove(temporary, ignored);
    throw;
  }
}

std::string read_whole(const fs::path& file) { return Reader(file).rest(); }

std::string read_start(const fs::path& file, std::int64_t bytes) {
  std::string text(static_cast<std::size_t>(bytes), '\0');
  text.resize(Reader(file).read(text));
  return text;
}

std::string read_end(const fs::path& file, std::int64_t bytes) {
  const Reader in(file);
  in.seek_to_last(bytes);
  return in.rest();
}

std::string sha256_of_file(const fs::path& file) {
  const Reader in(file);
  Sha256 hash;
  std::vector<char> buffer(std::size_t{1} << 20U);
  std::size_t got = buffer.size();
  while (got == buffer.size()) {
    got = in.read(buffer);
    hash.update(std::as_bytes(std::span(buffer).first(got)));
  }
  return hash.hex();
}

fs::path set_aside(const fs::path& path) {
  std::error_code ignored;
  if (!fs::exists(fs::symlink_status(path, ignored))) {
    return {};
  }
  for (int number = 1;; ++number) {
    fs::path other = path;
    other += fmt::format(".{}", number);
    if (fs::exists(fs::symlink_status(other, ignored))) {
      continue;
    }
    if (::rename(path.c_str(), other.c_str()) != 0) {
      fail_write(path, fmt::format("rename to {}", other.string()), errno);
    }
    return other;
  }
}

void remove_file(const fs::path& file) {
  if (::unlink(file.c_str()) != 0 && errno != ENOENT) {
    fail_write(file, "remove it", errno);
  }
}

void make_folder(const fs::path& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (!error && !is_folder(folder)) {
    error = std::make_error_code(std::errc::not_a_directory);
  }
  if (error) {
    throw Error(storage_failed(error.value()) ? Exit::kIoError : Exit::kCannotCreate,
                fmt::format("{}: cannot create this folder: {}", fs::absolute(folder).string(),
                            error.message()));
  }
}

}  // namespace moesaic::files
