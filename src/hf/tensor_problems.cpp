#include "hf/tensor_problems.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>

#include "base/text.h"

namespace moesaic::hf {
namespace {

constexpr std::size_t kMostListed = 20;  // of each kind of problem

}  // namespace

void list_tensors(std::string& message, const std::vector<std::string>& names,
                  const std::string& what) {
  if (names.empty()) {
    return;
  }
  const std::size_t shown = std::min(names.size(), kMostListed);
  const std::vector<std::string> first(names.begin(),
                                       names.begin() + static_cast<std::ptrdiff_t>(shown));
  message += fmt::format("\n  {} {}: {}{}", names.size(), what, join(first, ", "),
                         shown < names.size() ? ", ..." : "");
}

std::string shape_problem(const std::string& name, const std::vector<std::int64_t>& stored,
                          const std::vector<std::int64_t>& due) {
  return stored == due
             ? ""
             : fmt::format("{} [{}] (due: [{}])", name, join(stored, ", "), join(due, ", "));
}

}  // namespace moesaic::hf
