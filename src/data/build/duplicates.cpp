#include <algorithm>
#include <array>
#include <set>

#include "comm/pieces.h"
#include "data/build/scan.h"

namespace moesaic::data {
namespace {

/// Documents that are kept or removed together, and a hash of their texts.
struct HashedUnit {
  std::array<std::uint64_t, 2> hash{};
  std::uint64_t file = 0, line = 0;  // of the first one
  auto operator<=>(const HashedUnit&) const = default;
};

/// The units of this rank that have to be unlike all before them.
std::vector<HashedUnit> hashed_units(const Scan& scan, config::Tri unique) {
  std::vector<HashedUnit> units;
  bool counts = false;  // the unit that is gone through is there
  for (const ScannedDocument& document : scan.documents) {
    if (document.begins_unit()) {
      counts = !document.repeatable || unique == config::Tri::kOn;
      if (counts) {
        units.push_back({document.hash, static_cast<std::uint64_t>(document.file),
                         static_cast<std::uint64_t>(document.line)});
      }
    } else if (counts) {
      for (std::size_t i = 0; i < 2; ++i) {
        std::uint64_t& hash = units.back().hash[i];
        hash = (hash ^ document.hash[i]) * 0x9E3779B97F4A7C15ULL + document.hash[1 - i];
      }
    }
  }
  return units;
}

}  // namespace

std::int64_t remove_duplicates(Scan& scan, const std::vector<int>& owner, config::Tri unique,
                               const comm::Communicator& world) {
  if (unique == config::Tri::kOff) {
    return 0;
  }
  const auto ranks = static_cast<std::size_t>(world.size());
  std::vector<std::vector<std::uint64_t>> send(ranks);
  for (const HashedUnit& unit : hashed_units(scan, unique)) {
    auto& part = send[unit.hash[0] % ranks];
    part.insert(part.end(), {unit.hash[0], unit.hash[1], unit.file, unit.line});
  }
  std::vector<HashedUnit> seen;
  for (const auto& part : comm::all_to_all_in_pieces(world, send)) {
    for (std::size_t i = 0; i < part.size(); i += 4) {
      seen.push_back({{part[i], part[i + 1]}, part[i + 2], part[i + 3]});
    }
  }
  std::sort(seen.begin(), seen.end());
  std::vector<std::vector<std::uint64_t>> drop(ranks);  // file, line
  for (std::size_t i = 1; i < seen.size(); ++i) {
    if (seen[i].hash == seen[i - 1].hash) {
      auto& part = drop[static_cast<std::size_t>(owner[seen[i].file])];
      part.insert(part.end(), {seen[i].file, seen[i].line});
    }
  }
  std::set<std::pair<std::int64_t, std::int64_t>> mine;
  for (const auto& part : comm::all_to_all_in_pieces(world, drop)) {
    for (std::size_t i = 0; i < part.size(); i += 2) {
      mine.emplace(part[i], part[i + 1]);
    }
  }
  const auto removed =
      static_cast<std::int64_t>(std::erase_if(scan.documents, [&](const ScannedDocument& document) {
        return mine.count({document.file, document.unit_line}) != 0;
      }));
  return world.all_reduce(removed, comm::Reduce::kSum);
}

}  // namespace moesaic::data
