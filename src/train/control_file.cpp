#include "train/control_file.h"

#include <fmt/format.h>

#include <span>

#include "base/error.h"
#include "base/log.h"
#include "base/sha256.h"
#include "files/durable.h"

namespace moesaic::train {
namespace {

namespace fs = std::filesystem;

}  // namespace

std::string ControlFile::text() const { return files::read_whole(path_); }

std::string ControlFile::identity() const {
  std::error_code error;
  if (path_.empty() || !fs::is_regular_file(path_, error)) {
    return {};
  }
  const auto time = fs::last_write_time(path_, error).time_since_epoch().count();
  try {
    const std::string all = fmt::format("{}\n{}", time, text());
    std::string identity = Sha256::of(std::as_bytes(std::span(all)));
    return error || identity == refused_ ? std::string() : identity;
  } catch (const Error& unread) {
    log::warn(unread.what());  // it is looked for again after the next step
    return {};
  }
}

void ControlFile::refuse() {
  refused_ = identity();
  try {
    rename(".refused");
  } catch (const Error& error) {
    log::warn(error.what());
  }
}

void ControlFile::rename(const std::string& ending) const {
  fs::path target = path_;
  target += ending;
  std::error_code error;
  fs::rename(path_, target, error);
  if (error) {
    throw Error(Exit::kIoError, fmt::format("{} cannot be renamed to {}: {}", path_.string(),
                                            target.string(), error.message()));
  }
}

}  // namespace moesaic::train
