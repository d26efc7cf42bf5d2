#pragma once

#include <string>
#include <utility>
#include <vector>

#include "comm/communicator.h"

namespace moesaic::comm {

/// Names and values that must be the same on all ranks.
using Facts = std::vector<std::pair<std::string, std::string>>;

/// The facts of this program and its MPI: version, git hash, library.
Facts program_facts();

/// Collective over the world. Throws an AgreedError kMismatch with a table (rank, host, key, rank
/// 0's value, its own) if any rank's facts differ from rank 0's. Facts are compared by name; one
/// small reduction where all agree.
void check_same(const Facts& facts, const Communicator& world);

}  // namespace moesaic::comm
