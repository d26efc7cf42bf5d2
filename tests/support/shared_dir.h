#pragma once

#include <optional>
#include <string>

#include "comm/communicator.h"
#include "support/temp_dir.h"

namespace moesaic::testing {

/// One temporary folder for all ranks of the world, removed when the last of them has left it.
/// Collective, its end as well.
class SharedDir {
 public:
  SharedDir() {
    std::string name;
    if (world.is_root()) {
      owned_.emplace();
      name = owned_->path().string();
    }
    world.broadcast(name, 0);
    path = name;
  }
  ~SharedDir() { world.barrier(); }
  SharedDir(const SharedDir&) = delete;
  SharedDir& operator=(const SharedDir&) = delete;

  const comm::Communicator world = comm::Communicator::world();
  std::filesystem::path path;

 private:
  std::optional<TempDir> owned_;
};

}  // namespace moesaic::testing
