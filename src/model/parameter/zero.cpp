#include "model/parameter/zero.h"

#include <algorithm>

namespace moesaic::model {

std::vector<std::int64_t> share_out(std::span<Parameter* const> members, Owner owner) {
  const Parameter& back = *members.back();
  const std::int64_t first = members.front()->begin;
  const std::int64_t size = back.begin + padded(back.trained_elements()) - first;
  const auto border = [&](std::int64_t i) {
    const std::int64_t target = first + size * i / owner.ranks;
    for (const Parameter* p : members) {
      if (target < p->begin + p->trained_elements()) {
        const std::int64_t inside = std::max<std::int64_t>(0, target - p->begin);
        return p->begin + inside / p->columns() * p->columns();
      }
    }
    return first + size;
  };
  std::vector<std::int64_t> counts;
  counts.reserve(static_cast<std::size_t>(owner.ranks));
  for (int r = 0; r < owner.ranks; ++r) {
    counts.push_back(border(r + 1) - border(r));
  }
  const std::int64_t own_begin = border(owner.rank);
  const std::int64_t own_end = border(owner.rank + 1);
  for (Parameter* p : members) {
    const auto row_at = [&](std::int64_t element) {
      return std::clamp<std::int64_t>(element - p->begin, 0, p->trained_elements()) / p->columns();
    };
    p->owners = owner.ranks;
    p->owned = {row_at(own_begin), row_at(own_end) - row_at(own_begin)};
  }
  return counts;
}

}  // namespace moesaic::model
