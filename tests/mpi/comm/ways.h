#pragma once

#include <memory>
#include <string>
#include <vector>

#include "comm/collectives.h"

namespace moesaic::comm {

/// A way of tensors to other ranks, over the CPU backend.
struct Way {
  std::string name;
  MakeCollectives (*make)(Backend& backend, const Communicator& world);
};

/// Those of this test program.
std::vector<Way> ways();

constexpr std::size_t kMost = 5;  // elements in one call of MPI

}  // namespace moesaic::comm
