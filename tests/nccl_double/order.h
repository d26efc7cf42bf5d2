#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

// What ranks have given their GPUs to do, and whether it could deadlock.
namespace moesaic::nccl_double {

enum class Call { kAllReduce, kBroadcast, kReduce, kAllGather, kReduceScatter, kSend, kReceive };

/// One call of NCCL.
struct Part {
  Call call = Call::kAllReduce;
  int peer = -1;  // world rank of a message's other end, or of the root
  std::int64_t bytes = 0;
};

/// What stands in a stream, or makes the host wait. An event has a new number when it is recorded.
struct Step {
  enum class Kind { kCalls, kRecord, kWait };
  Kind kind = Kind::kCalls;
  int stream = 0;
  std::int64_t event = 0;
  std::int64_t comm = 0;
  std::vector<Part> parts = {};  // carried out together
};

struct CommFacts {
  std::vector<int> members;  // world ranks
  std::int64_t family = 0;   // those of one share connections
  int blocks = 0;            // thread blocks at most; 0: any number
};

/// In the order of the host's calls.
struct RankLog {
  std::vector<Step> steps;
  std::map<std::int64_t, CommFacts> comms;

  std::string text() const;
  static RankLog parse(const std::string& text);
};

/// Why the calls of these ranks, in the order of ranks, could deadlock or do not fit together:
/// NCCL's messages may wait until both ends are there, its collectives for all members, and two
/// communicators of one family, or two that may fill the GPU, must not be under way at once.
std::vector<std::string> problems_of(const std::vector<RankLog>& ranks);

}  // namespace moesaic::nccl_double
