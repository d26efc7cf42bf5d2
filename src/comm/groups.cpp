#include "comm/groups.h"

namespace moesaic::comm {

std::vector<std::string> traced_names() {
  std::vector<std::string> names;
  names.reserve(kTracedGroups.size());
  for (const Group group : kTracedGroups) {
    names.emplace_back(row_of(group).trace);
  }
  return names;
}

}  // namespace moesaic::comm
