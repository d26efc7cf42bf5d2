#include "backend/cpu/group_offsets.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"

namespace moesaic::cpu {

std::vector<std::int64_t> group_offsets(const Tensor& offsets, std::int64_t groups,
                                        std::int64_t rows) {
  if (!offsets.defined()) {
    require(groups == 1, fmt::format("{} groups without offsets", groups));
    return {0, rows};
  }
  const auto ends = offsets.as<std::int32_t>();
  require(std::ssize(ends) == groups + 1 && std::is_sorted(ends.begin(), ends.end()) &&
              ends.front() >= 0 && ends.back() <= rows,
          fmt::format("{} group offsets for {} groups of {} rows", ends.size(), groups, rows));
  return {ends.begin(), ends.end()};
}

}  // namespace moesaic::cpu
