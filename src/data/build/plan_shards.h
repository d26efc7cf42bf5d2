#pragma once

#include <cstdint>
#include <vector>

#include "comm/communicator.h"
#include "config/config.h"
#include "data/build/scan.h"

// Which document goes into which shard of which corpus, and which rank writes it.
namespace moesaic::data {

/// A document on its way to the rank that writes its shard.
struct PlannedDocument {
  std::int64_t file = 0, line = 0, offset = 0;  // these come first: it is their order
  std::int64_t corpus = 0;                      // 0: train (or all), 1: held out
  std::int64_t shard = 0;
  std::int64_t task = 0;
  std::int64_t group_line = -1;  // of the first document of its group; -1: it has none
  auto operator<=>(const PlannedDocument&) const = default;
};

struct CorpusPlan {
  std::int64_t documents = 0, bytes = 0;
  std::int64_t shards = 0;
  std::vector<std::int64_t> task_documents;  // [tasks]
};

struct ShardPlan {
  std::vector<CorpusPlan> corpora;         // one, or train and held out; alike on all ranks
  std::vector<PlannedDocument> documents;  // of this rank's shards, in the order of the input
};

/// The rank that writes a shard. It writes neighbours, of both corpora the same part, so that it
/// goes through its part of the input once.
int writer_of(const ShardPlan& plan, std::int64_t corpus, std::int64_t shard, int ranks);

/// Collective over world. Shards are contiguous ranges of documents of about equal text; a group is
/// never divided. With a holdout and two documents (or groups) or more, at least one is held out:
/// that of the smallest hash.
ShardPlan plan_shards(const Scan& scan, std::int64_t files, const config::Tokenize& config,
                      const comm::Communicator& world);

}  // namespace moesaic::data
