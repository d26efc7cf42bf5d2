#pragma once

#include <array>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "comm/groups.h"

namespace moesaic::comm {

/// Degrees of the five axes; their product is the world size.
struct Layout {
  int tp = 1, pp = 1, ep = 1, cp = 1, dp = 1;
  int size() const { return tp * pp * ep * cp * dp; }
  std::string text() const;  // "tp=1 pp=1 ep=2 dp=1"; cp only where it is more than 1
  /// A picture, one line for each stage, dp and cp: ranks of tp in brackets, along ep.
  std::vector<std::vector<std::string>> rows() const;
};

/// The degrees that a user asks for; dp follows from the number of ranks.
struct Degrees {
  int tp = 1, pp = 1, ep = 1, cp = 1;
  int kv_copies = 1;  // consecutive ranks of tp that hold the same key and value heads
};

/// The world's ranks arranged along the axes, and their groups (groups.h). All groups are made at
/// start-up; a group of one is legal everywhere.
struct Mesh {
  Layout layout;
  Communicator world;
  Communicator node;  // the ranks of this host

  const Communicator& operator[](Group group) const {
    return group == Group::kWorld ? world : groups_[index_of(group)];
  }

  /// Collective over the world. Throws kUsage if the world cannot be arranged so, naming what can.
  /// The ledger, where there is one, records all groups but node.
  static Mesh make(const Degrees& degrees, Ledger* ledger = nullptr);
  /// The mesh of one rank, without MPI.
  static Mesh single();
  /// Collective over the world: releases all groups.
  void close();

  /// The one rank of tp that counts what all of them know of the losses: on the last stage, which
  /// has them. Of cp each rank does, of its own rows.
  bool reports() const {
    const Communicator& pp = (*this)[Group::kPp];
    return pp.rank() == pp.size() - 1 && (*this)[Group::kTp].rank() == 0;
  }
  /// The one rank of its stage that counts what all that share a micro-batch know of the whole of
  /// it: the first of tp and of cp.
  bool counts() const { return (*this)[Group::kTp].rank() == 0 && (*this)[Group::kCp].rank() == 0; }

 private:
  std::array<Communicator, kGroupCount> groups_;  // but the world
};

}  // namespace moesaic::comm
