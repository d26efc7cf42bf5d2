#include "data/corpus/shard_checks.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"

namespace moesaic::data {

void refuse_shard(const std::filesystem::path& file, const std::string& what) {
  throw Error(Exit::kBadData, fmt::format("{}: {}; copy it again, or run `moesaic tokenize` again",
                                          std::filesystem::absolute(file).string(), what));
}

std::int64_t length_of(const files::Hdf5File& file, const std::string& name) {
  if (!file.has(name)) {
    throw Error(Exit::kBadData,
                fmt::format("{}: has no dataset {}: {}",
                            std::filesystem::absolute(file.path()).string(), name, kShardRemedy));
  }
  const files::Extents extents = file.extents(name);
  if (extents.size() != 1) {
    refuse_shard(file.path(), fmt::format("{} has {} dims, not 1", name, extents.size()));
  }
  return extents[0];
}

void check_length(const files::Hdf5File& file, const std::string& name, std::int64_t documents) {
  if (!file.has(name)) {
    return;
  }
  if (const std::int64_t length = length_of(file, name); length != documents) {
    refuse_shard(file.path(),
                 fmt::format("{} has {} entries for {} documents", name, length, documents));
  }
}

void check_sorted(const std::filesystem::path& file, const std::string& name, std::int64_t first,
                  const std::vector<std::int64_t>& offsets) {
  if (first == 0 && offsets.front() != 0) {
    refuse_shard(file, fmt::format("{} begins with {}, not 0", name, offsets.front()));
  }
  const auto descent = std::is_sorted_until(offsets.begin(), offsets.end());
  if (descent != offsets.end()) {
    refuse_shard(file, fmt::format("{} is not sorted: entry {} is {}, after {}", name,
                                   first + (descent - offsets.begin()), *descent, *(descent - 1)));
  }
}

}  // namespace moesaic::data
