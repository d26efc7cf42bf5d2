#pragma once

#include <memory>
#include <string>
#include <vector>

#include "comm/collectives.h"

namespace moesaic::comm {

/// A way of a backend's tensors to other ranks.
struct Way {
  std::string name;
  std::unique_ptr<Backend> (*backend)();
  MakeCollectives (*make)(Backend& backend, const Communicator& world);
};

/// Those of this test program.
std::vector<Way> ways();

inline std::unique_ptr<Backend> cpu() { return make_cpu_backend(1); }

constexpr std::size_t kMost = 5;  // elements in one call of MPI

}  // namespace moesaic::comm
