#pragma once

#include <string>

#include "comm/communicator.h"

namespace moesaic::comm {

/// Degrees of the four axes; their product is the world size.
struct Layout {
  int tp = 1, pp = 1, ep = 1, dp = 1;
  int size() const { return tp * pp * ep * dp; }
  std::string text() const;  // "tp=1 pp=1 ep=2 dp=1"
};

/// The world's ranks arranged as rank = ((pp_i * dp + dp_i) * ep + ep_i) * tp + tp_i. All groups
/// are made at start-up; a group of one is legal everywhere.
struct Mesh {
  Layout layout;
  Communicator world;
  Communicator tp, pp, ep, dp;
  Communicator replicas;  // dp x ep: the ranks that hold the same non-expert parameters
  Communicator node;      // the ranks of this host

  /// Collective over the world. Throws kUsage if the world cannot be arranged so, naming what can.
  static Mesh make(int tp, int pp, int ep);
  /// Of one rank, without MPI.
  static Mesh single();
  /// Collective over the world: releases all groups.
  void close();

  /// This rank's number among the dp x ep coordinates that share out the micro-batches.
  int replica() const { return replicas.rank(); }
};

}  // namespace moesaic::comm
