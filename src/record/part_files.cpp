#include "record/part_files.h"

#include <fmt/format.h>
#include <unistd.h>

#include <utility>

#include "base/error.h"
#include "base/log.h"
#include "data/corpus/shard.h"
#include "files/durable.h"
#include "files/run_lock.h"

namespace moesaic::record {

namespace fs = std::filesystem;

PartFiles::PartFiles(fs::path folder, std::string name, std::int64_t count, std::string fingerprint,
                     FingerprintOf fingerprint_of)
    : folder_(std::move(folder)),
      name_(std::move(name)),
      count_(count),
      fingerprint_(std::move(fingerprint)),
      fingerprint_of_(std::move(fingerprint_of)) {}

fs::path PartFiles::part(std::int64_t i) const {
  return folder_ / data::shard_file_name(name_, i, count_);
}

bool PartFiles::is_current(const fs::path& file) const {
  return files::is_there(file) && fingerprint_of_(file) == fingerprint_;
}

std::vector<std::uint8_t> PartFiles::done() const {
  std::vector<std::uint8_t> done;
  for (std::int64_t i = 0; i < count_; ++i) {
    done.push_back(is_current(part(i)) ? 1 : 0);
  }
  return done;
}

void PartFiles::drop_stale(const fs::path& file) const {
  if (!files::is_there(file) || is_current(file)) {
    return;
  }
  const fs::path other = files::set_aside(file);
  log::info(fmt::format("{} is of another model, corpus, setting or version: it is now {}",
                        file.string(), other.string()));
}

void PartFiles::drop_other_counts() const {
  std::vector<fs::path> others;
  for (const auto& entry : fs::directory_iterator(folder_)) {
    const std::string name = entry.path().filename().string();
    const bool is_part = name.starts_with(name_ + "-") && name.find("-of-") != std::string::npos &&
                         entry.path().extension() == ".h5";
    if (is_part && !name.ends_with(fmt::format("-of-{:05}.h5", count_))) {
      others.push_back(entry.path());
    }
  }
  for (const fs::path& other : others) {
    drop_stale(other);
    files::remove_file(other.string() + ".begun");
  }
}

void PartFiles::make_folder() const {
  files::make_folder(folder_);
  if (::access(folder_.c_str(), W_OK) != 0) {
    throw Error(Exit::kCannotCreate,
                fmt::format("{}: cannot write into this folder", fs::absolute(folder_).string()));
  }
}

void PartFiles::remove() const {
  std::vector<fs::path> own;
  std::error_code error;
  for (fs::directory_iterator entry(folder_, error), end; !error && entry != end;
       entry.increment(error)) {
    const fs::path name = entry->path().filename();
    const fs::path ending = name.extension();
    const bool like_a_part =
        name.string().starts_with(name_ + "-") &&
        (ending == ".h5" || ending == ".jsonl" || ending == ".begun" || ending == ".tmp");
    if (like_a_part || name == files::RunLock::kName) {
      own.push_back(entry->path());
    }
  }
  for (const fs::path& file : own) {
    if (!fs::remove(file, error) && error) {
      log::warn(fmt::format("{} cannot be removed: {}; it is not needed any more", file.string(),
                            error.message()));
    }
  }
  fs::remove(folder_, error);  // unless it is not empty
}

}  // namespace moesaic::record
