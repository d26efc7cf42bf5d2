#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <string_view>

#include "base/timer.h"
#include "comm/groups.h"

namespace moesaic::comm {

/// What blocks: all of a group for each other, or one rank for another.
enum class Operation : std::uint8_t {
  kAllReduce,
  kBroadcast,
  kAllGather,
  kGather,
  kAllToAll,
  kReduceScatter,
  kBarrier,
  kReceive,
  kSend,
};

std::string_view name_of(Operation operation);

/// World ranks first, first + stride, ..., in runs of so many that begin `jump` apart: so lie the
/// members of every group of the mesh. A run of 0: all of them.
struct Members {
  std::int32_t first = 0, count = 0, stride = 1;
  std::int32_t run = 0, jump = 0;

  int rank(int i) const {
    return run == 0 ? first + i * stride : first + i / run * jump + i % run * stride;
  }
  std::string text() const;  // "ranks 2-3", "ranks 0, 2, 4", "ranks 0, 8, ..., 504"
};

/// One blocking operation. All members of a group begin its collectives in one order and so number
/// them alike, from 1. The messages that a rank waits for have numbers of its own.
struct Wait {
  Group group = Group::kWorld;
  Operation operation = Operation::kBarrier;
  std::int32_t peer = -1;  // world rank; -1: collective
  std::int64_t number = 0;
};

/// Where a rank stands; plain bytes that ranks may send each other.
struct Standing {
  struct Part {
    Members members;  // count 0: not recorded, or a group of one
    std::int64_t begun = 0, messages = 0;
  };
  std::array<Part, kGroupCount> parts{};
  bool waits = false;
  Wait wait;                         // if it waits
  std::array<char, 96> doing{};      // ends with a zero: "phase data of step 41"
  double silent = 0.0, limit = 0.0;  // seconds since the rank got on, and how long it may not

  /// Whether it computes, reads or writes, and is not late with it: others may wait for it.
  bool makes_progress() const { return !waits && silent <= limit; }
};

/// This rank's record of the operations that block: which one it is in, and how many of each group
/// it has begun. Written by the thread that communicates, read by the watchdog's.
class Ledger {
 public:
  /// Leaves the operation at the end of the scope.
  class Entry {
   public:
    explicit Entry(Ledger* ledger) : ledger_(ledger) {}
    ~Entry();
    Entry(const Entry&) = delete;
    Entry& operator=(const Entry&) = delete;

   private:
    Ledger* ledger_;  // may be absent
  };

  void add(Group group, const Members& members);
  /// The number of a collective that begins now, waited for later or not at all.
  std::int64_t begin(Group group);
  void enter(Wait wait);
  void leave();
  /// The device has got an operation, which it waits in until `ended`; asked from any thread.
  void launch(Wait wait, std::function<bool()> ended);
  /// From now on `trouble` is asked, from any thread, what went wrong behind the owner's
  /// operations; empty: nothing. Nobody: the owner ends.
  void watch(const void* owner, std::function<std::string()> trouble);
  /// The first that an owner knows of.
  std::string trouble() const;
  /// World rank of a member.
  int rank_of(Group group, int member) const;
  /// What this rank does between its operations; a piece of text that lives on, or empty.
  void set_task(std::string_view task);

  /// Seconds spent in the operations that have ended: in all groups, or in one.
  double waited() const;
  double waited(Group group) const;
  /// From any thread. `doing` holds the task. Where this rank computes, it waits in the oldest
  /// operation of its device that has not ended.
  Standing standing() const;

 private:
  struct Launched {
    Wait wait;
    std::function<bool()> ended;
  };
  /// The oldest that has not ended, or none.
  const Launched* oldest() const;

  mutable std::mutex mutex_;
  Standing now_;
  mutable std::deque<Launched> launched_;
  std::map<const void*, std::function<std::string()>> owners_;
  Timer since_enter_;
  std::array<double, kGroupCount> waited_{};
  std::string_view task_;
};

}  // namespace moesaic::comm
