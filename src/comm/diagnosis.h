#pragma once

#include <map>
#include <string>
#include <vector>

#include "comm/ledger.h"

namespace moesaic::comm {

/// Who keeps all others waiting, in one line or a few: from the standings of the ranks that gave
/// one, by world rank, and the hosts of all ranks; "" of ranks that could not be asked.
std::string diagnose(const std::map<int, Standing>& standings,
                     const std::vector<std::string>& hosts);

}  // namespace moesaic::comm
