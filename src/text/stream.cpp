#include "text/stream.h"

#include <fmt/format.h>
#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "files/durable.h"

namespace moesaic::text {
namespace {

struct CloseFile {
  void operator()(std::FILE* file) const { std::fclose(file); }
};
struct CloseGzip {
  void operator()(gzFile_s* file) const { gzclose(file); }
};
struct FreeZstd {
  void operator()(ZSTD_DStream* stream) const { ZSTD_freeDStream(stream); }
};

}  // namespace

struct TextStream::State {
  std::string path;
  std::unique_ptr<std::FILE, CloseFile> file;  // not packed, and zst
  std::unique_ptr<gzFile_s, CloseGzip> gzip;
  std::unique_ptr<ZSTD_DStream, FreeZstd> zstd;
  std::vector<char> packed;  // of zst: read, from input.pos not yet unpacked
  ZSTD_inBuffer input{nullptr, 0, 0};
  bool frame_done = true;

  [[noreturn]] void fail(Exit code, const std::string& what) const {
    throw Error(code, fmt::format("{}: {}", path, what));
  }
  std::size_t read_plain(std::span<char> block) const;
  std::size_t read_gzip(std::span<char> block) const;
  std::size_t read_zstd(std::span<char> block);
};

std::size_t TextStream::State::read_plain(std::span<char> block) const {
  const std::size_t count = std::fread(block.data(), 1, block.size(), file.get());
  if (count < block.size() && std::ferror(file.get()) != 0) {
    files::fail_read(path, errno);
  }
  return count;
}

std::size_t TextStream::State::read_gzip(std::span<char> block) const {
  const int count = gzread(gzip.get(), block.data(), static_cast<unsigned>(block.size()));
  int code = Z_OK;
  const char* message = gzerror(gzip.get(), &code);
  if (count < 0 && code == Z_ERRNO) {
    files::fail_read(path, errno);
  }
  if (count < 0 || code == Z_BUF_ERROR) {
    fail(Exit::kBadData, fmt::format("the gzip data is damaged or cut ({})", message));
  }
  return static_cast<std::size_t>(count);
}

std::size_t TextStream::State::read_zstd(std::span<char> block) {
  ZSTD_outBuffer output{block.data(), block.size(), 0};
  while (output.pos == 0) {
    if (input.pos == input.size) {
      input = {packed.data(), read_plain(packed), 0};
      if (input.size == 0 && frame_done) {
        return 0;
      }
    }
    const bool at_end = input.size == 0;
    const std::size_t left = ZSTD_decompressStream(zstd.get(), &output, &input);
    if (ZSTD_isError(left) != 0) {
      fail(Exit::kBadData, fmt::format("the zstd data is damaged ({})", ZSTD_getErrorName(left)));
    }
    frame_done = left == 0;
    if (at_end && output.pos == 0 && !frame_done) {
      fail(Exit::kBadData, "the zstd data is cut");
    }
  }
  return output.pos;
}

std::string packing_of(const std::filesystem::path& file) {
  constexpr std::string_view kGzip = "\x1F\x8B", kZstd = "\x28\xB5\x2F\xFD";
  constexpr std::string_view kSkippable = "\x2A\x4D\x18";  // a zstd frame without text, behind 0x5?
  const std::string start = files::read_start(file, 4);
  if (start.starts_with(kGzip)) {
    return "gz";
  }
  const bool skippable =
      start.size() == 4 && (start[0] & 0xF0) == 0x50 && start.ends_with(kSkippable);
  if (start == kZstd || skippable) {
    return "zst";
  }
  return file.extension() == ".zst" ? "zst" : "";  // damaged
}

TextStream::TextStream(const std::filesystem::path& file) : state_(std::make_unique<State>()) {
  state_->path = std::filesystem::absolute(file).string();
  const std::string packing = packing_of(file);
  errno = 0;
  if (packing == "gz") {
    state_->gzip.reset(gzopen(file.c_str(), "rb"));
  } else {
    state_->file.reset(std::fopen(file.c_str(), "rb"));
  }
  if (!state_->gzip && !state_->file) {
    files::fail_read(file, errno);
  }
  if (packing == "zst") {
    state_->zstd.reset(ZSTD_createDStream());
    // Windows as large as `zstd --long=31` makes, of 2 GiB; memory grows with what is in them.
    ZSTD_DCtx_setParameter(state_->zstd.get(), ZSTD_d_windowLogMax,
                           ZSTD_dParam_getBounds(ZSTD_d_windowLogMax).upperBound);
    state_->packed.resize(ZSTD_DStreamInSize());
  }
}
TextStream::TextStream(TextStream&&) noexcept = default;
TextStream& TextStream::operator=(TextStream&&) noexcept = default;
TextStream::~TextStream() = default;

std::size_t TextStream::read(std::span<char> block) {
  if (state_->zstd) {
    return state_->read_zstd(block);
  }
  return state_->gzip ? state_->read_gzip(block) : state_->read_plain(block);
}

void TextStream::seek(std::int64_t offset) {
  require(!is_packed(), "a packed file cannot be sought in");
  if (fseeko(state_->file.get(), offset, SEEK_SET) != 0) {
    files::fail_read(state_->path, errno);
  }
}

bool TextStream::is_packed() const { return state_->gzip || state_->zstd; }

}  // namespace moesaic::text
