#pragma once

#include <memory>
#include <string>

#include "comm/communicator.h"
#include "support/temp_dir.h"

namespace moesaic::testing {

/// One temporary folder for all ranks; rank 0 owns it.
class SharedDir {
 public:
  explicit SharedDir(const comm::Communicator& world) {
    std::string name;
    if (world.is_root()) {
      owned_ = std::make_unique<TempDir>();
      name = owned_->path().string();
    }
    world.broadcast(name, 0);
    path = name;
  }
  std::filesystem::path path;

 private:
  std::unique_ptr<TempDir> owned_;
};

}  // namespace moesaic::testing
