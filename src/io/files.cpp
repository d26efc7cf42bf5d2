#include "io/files.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <span>
#include <sstream>
#include <vector>

#include "base/error.h"
#include "base/sha256.h"

namespace moesaic::io {
namespace {

namespace fs = std::filesystem;

std::ifstream open_to_read(const fs::path& file) {
  std::error_code ignored;
  if (fs::is_directory(file, ignored)) {
    throw Error(Exit::kNoInput,
                fmt::format("{}: is a folder, not a file", fs::absolute(file).string()));
  }
  errno = 0;
  std::ifstream in(file, std::ios::binary);
  if (!in) {
    throw Error(Exit::kNoInput, fmt::format("{}: cannot be read: {}", fs::absolute(file).string(),
                                            std::strerror(errno)));
  }
  return in;
}

fs::path folder_of(const fs::path& file) {
  return file.has_parent_path() ? file.parent_path() : fs::path(".");
}

}  // namespace

void fail_write(const fs::path& path, std::string_view what, int error) {
  std::string message =
      fmt::format("{}: cannot {}: {}", fs::absolute(path).string(), what, std::strerror(error));
  if (error == ENOSPC || error == EDQUOT) {
    std::error_code ignored;
    message += fmt::format(" ({} bytes free; remove files or raise the quota)",
                           fs::space(path.parent_path(), ignored).available);
  }
  throw Error(Exit::kIoError, message);
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
  errno = 0;
  std::ofstream out(temporary, std::ios::binary | std::ios::trunc);
  out << text;
  out.close();
  if (!out) {
    const int error = errno;
    std::error_code ignored;
    fs::remove(temporary, ignored);
    fail_write(file, "write", error);
  }
  publish(temporary, file);
}

std::string read_whole(const fs::path& file) {
  const std::ifstream in = open_to_read(file);
  std::ostringstream text;
  text << in.rdbuf();
  return std::move(text).str();
}

std::string read_end(const fs::path& file, std::int64_t bytes) {
  std::ifstream in = open_to_read(file);
  in.seekg(0, std::ios::end);
  in.seekg(std::max<std::int64_t>(0, in.tellg() - std::streamoff{bytes}));
  std::ostringstream text;
  text << in.rdbuf();
  return std::move(text).str();
}

std::string sha256_of_file(const fs::path& file) {
  std::ifstream in = open_to_read(file);
  Sha256 hash;
  std::vector<char> buffer(std::size_t{1} << 20U);
  while (in) {
    in.read(buffer.data(), static_cast<std::streamsize>(buffer.size()));
    hash.update(std::as_bytes(std::span(buffer).first(static_cast<std::size_t>(in.gcount()))));
  }
  if (in.bad()) {
    throw Error(Exit::kNoInput, fmt::format("{}: read failed", fs::absolute(file).string()));
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

void make_folder(const fs::path& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error || !fs::is_directory(folder, error)) {
    throw Error(Exit::kCannotCreate,
                fmt::format("{}: cannot create this folder: {}", fs::absolute(folder).string(),
                            error ? error.message() : "a file has that name"));
  }
}

}  // namespace moesaic::io
