#include "nccl_double/order.h"

#include <fmt/format.h>

#include <algorithm>
#include <deque>
#include <set>
#include <sstream>
#include <utility>

namespace moesaic::nccl_double {
namespace {

constexpr const char* kNames[] = {"all_reduce",     "broadcast", "reduce", "all_gather",
                                  "reduce_scatter", "send",      "receive"};

bool is_message(Call call) { return call == Call::kSend || call == Call::kReceive; }

std::string text_of(const Part& part) {
  return fmt::format("{}{} of {} bytes", kNames[static_cast<std::size_t>(part.call)],
                     part.peer < 0 ? "" : fmt::format(" with {}", part.peer), part.bytes);
}

// Carries out all steps as the devices could at best: what is left then waits for ever.
class Replay {
 public:
  explicit Replay(const std::vector<RankLog>& ranks) : logs_(ranks), ranks_(ranks.size()) {
    for (std::size_t r = 0; r < ranks.size(); ++r) {
      for (const Step& step : ranks[r].steps) {
        ranks_[r].streams[step.stream].push_back({&step, std::vector<bool>(step.parts.size())});
      }
    }
  }

  std::vector<std::string> run() {
    bool moved = true;
    while (moved && found_.empty()) {
      moved = false;
      for (std::size_t r = 0; r < ranks_.size(); ++r) {
        moved = advance(static_cast<int>(r)) || moved;
      }
    }
    if (found_.empty()) {
      report_waiting();
    }
    return found_;
  }

 private:
  struct Pending {
    const Step* step;
    std::vector<bool> done;
  };
  struct Rank {
    std::map<int, std::deque<Pending>> streams;
    std::set<std::int64_t> reached;
  };

  bool advance(int rank) {
    bool moved = false;
    Rank& own = ranks_[static_cast<std::size_t>(rank)];
    for (auto& [stream, queue] : own.streams) {
      while (!queue.empty() && complete(rank, queue.front())) {
        queue.pop_front();
        moved = true;
      }
    }
    return moved || std::exchange(matched_, false);
  }

  bool complete(int rank, Pending& pending) {
    Rank& own = ranks_[static_cast<std::size_t>(rank)];
    const Step& step = *pending.step;
    switch (step.kind) {
      case Step::Kind::kRecord:
        own.reached.insert(step.event);
        return true;
      case Step::Kind::kWait:
        return own.reached.contains(step.event);
      case Step::Kind::kCalls:
        break;
    }
    for (std::size_t i = 0; i < step.parts.size(); ++i) {
      if (!pending.done[i]) {
        match(rank, pending, i);
      }
    }
    return std::all_of(pending.done.begin(), pending.done.end(), [](bool done) { return done; });
  }

  // The part of a communicator that another rank is at: the first that is open in a stream's head.
  // A message is looked for in the direction to this rank.
  Part* find(int at, std::int64_t comm, const Part& like, int from, Pending*& holder,
             std::size_t& place) {
    for (auto& [stream, queue] : ranks_[static_cast<std::size_t>(at)].streams) {
      if (queue.empty() || queue.front().step->kind != Step::Kind::kCalls ||
          queue.front().step->comm != comm) {
        continue;
      }
      Pending& pending = queue.front();
      for (std::size_t i = 0; i < pending.done.size(); ++i) {
        const Part& part = pending.step->parts[i];
        const bool fits = is_message(like.call)
                              ? is_message(part.call) && part.call != like.call && part.peer == from
                              : !is_message(part.call);
        if (!pending.done[i] && fits) {
          holder = &pending;
          place = i;
          return const_cast<Part*>(&part);
        }
      }
    }
    return nullptr;
  }

  void match(int rank, Pending& pending, std::size_t i) {
    const Step& step = *pending.step;
    const Part& part = step.parts[i];
    // Those before it in the same direction, or collectives before it, come first.
    for (std::size_t earlier = 0; earlier < i; ++earlier) {
      const Part& other = step.parts[earlier];
      const bool same = is_message(part.call) ? other.call == part.call && other.peer == part.peer
                                              : !is_message(other.call);
      if (same && !pending.done[earlier]) {
        return;
      }
    }
    std::vector<int> others;
    if (is_message(part.call)) {
      others = {part.peer};
    } else {
      others = logs_[static_cast<std::size_t>(rank)].comms.at(step.comm).members;
      std::erase(others, rank);
    }
    std::vector<std::pair<Pending*, std::size_t>> found;
    for (const int other : others) {
      Pending* holder = nullptr;
      std::size_t place = 0;
      const Part* const theirs = find(other, step.comm, part, rank, holder, place);
      if (theirs == nullptr) {
        return;
      }
      const bool alike =
          theirs->bytes == part.bytes &&
          (is_message(part.call) || (theirs->call == part.call && theirs->peer == part.peer));
      if (!alike) {
        found_.push_back(fmt::format("rank {} is at {}, rank {} at {} of one communicator", rank,
                                     text_of(part), other, text_of(*theirs)));
        return;
      }
      found.emplace_back(holder, place);
    }
    pending.done[i] = true;
    for (const auto& [holder, place] : found) {
      holder->done[place] = true;
    }
    matched_ = true;
  }

  void report_waiting() {
    for (std::size_t r = 0; r < ranks_.size(); ++r) {
      for (const auto& [stream, queue] : ranks_[r].streams) {
        if (!queue.empty()) {
          found_.push_back(fmt::format("rank {}, stream {}: waits for ever in {}", r, stream,
                                       text_of(queue.front())));
        }
      }
    }
  }

  static std::string text_of(const Part& part) { return nccl_double::text_of(part); }
  static std::string text_of(const Pending& pending) {
    if (pending.step->kind == Step::Kind::kWait) {
      return "a wait for another stream";
    }
    for (std::size_t i = 0; i < pending.done.size(); ++i) {
      if (!pending.done[i]) {
        return text_of(pending.step->parts[i]);
      }
    }
    return "nothing";
  }

  const std::vector<RankLog>& logs_;
  std::vector<Rank> ranks_;
  bool matched_ = false;
  std::vector<std::string> found_;
};

// Calls that may be under way at once on one rank and must not: in two streams, and neither waits
// for the other.
class Overlaps {
 public:
  Overlaps(int rank, const RankLog& log) : rank_(rank), log_(log) {}

  std::vector<std::string> find() {
    for (const Step& step : log_.steps) {
      Clock& own = clocks_[step.stream];
      switch (step.kind) {
        case Step::Kind::kRecord:
          events_[step.event] = own;
          break;
        case Step::Kind::kWait:
          for (const auto& [stream, number] : events_[step.event]) {
            own[stream] = std::max(own[stream], number);
          }
          break;
        case Step::Kind::kCalls:
          compare(step, own);
          own[step.stream] = ++calls_;
          last_[{step.stream, step.comm}] = calls_;
          break;
      }
    }
    return {found_.begin(), found_.end()};
  }

 private:
  using Clock = std::map<int, std::int64_t>;  // the last call of each stream that comes before

  void compare(const Step& step, const Clock& own) {
    for (const auto& [where, number] : last_) {
      const auto& [stream, comm] = where;
      const auto known = own.find(stream);
      if (stream != step.stream && (known == own.end() || known->second < number)) {
        judge(step.comm, comm);
      }
    }
  }

  void judge(std::int64_t one, std::int64_t other) {
    const CommFacts& a = log_.comms.at(one);
    const CommFacts& b = log_.comms.at(other);
    const char* const what = one == other           ? "one communicator"
                             : a.family == b.family ? "communicators that share connections"
                             : a.blocks == 0 && b.blocks == 0
                                 ? "communicators without a limit of blocks"
                                 : nullptr;
    if (what != nullptr) {
      found_.insert(fmt::format("rank {}: {} in two streams at once", rank_, what));
    }
  }

  const int rank_;
  const RankLog& log_;
  std::int64_t calls_ = 0;
  std::map<int, Clock> clocks_;  // of streams
  std::map<std::int64_t, Clock> events_;
  std::map<std::pair<int, std::int64_t>, std::int64_t> last_;  // call by stream and communicator
  std::set<std::string> found_;
};

}  // namespace

std::vector<std::string> problems_of(const std::vector<RankLog>& ranks) {
  std::vector<std::string> found;
  for (std::size_t r = 0; r < ranks.size(); ++r) {
    const std::vector<std::string> overlaps = Overlaps(static_cast<int>(r), ranks[r]).find();
    found.insert(found.end(), overlaps.begin(), overlaps.end());
  }
  const std::vector<std::string> waiting = Replay(ranks).run();
  found.insert(found.end(), waiting.begin(), waiting.end());
  return found;
}

std::string RankLog::text() const {
  std::ostringstream out;
  out << comms.size() << '\n';
  for (const auto& [id, facts] : comms) {
    out << id << ' ' << facts.family << ' ' << facts.blocks << ' ' << facts.members.size();
    for (const int member : facts.members) {
      out << ' ' << member;
    }
    out << '\n';
  }
  out << steps.size() << '\n';
  for (const Step& step : steps) {
    out << static_cast<int>(step.kind) << ' ' << step.stream << ' ' << step.event << ' '
        << step.comm << ' ' << step.parts.size();
    for (const Part& part : step.parts) {
      out << ' ' << static_cast<int>(part.call) << ' ' << part.peer << ' ' << part.bytes;
    }
    out << '\n';
  }
  return out.str();
}

RankLog RankLog::parse(const std::string& text) {
  std::istringstream in(text);
  RankLog log;
  std::size_t count = 0;
  in >> count;
  for (std::size_t i = 0; i < count; ++i) {
    std::int64_t id = 0;
    CommFacts facts;
    std::size_t members = 0;
    in >> id >> facts.family >> facts.blocks >> members;
    facts.members.resize(members);
    for (int& member : facts.members) {
      in >> member;
    }
    log.comms[id] = facts;
  }
  in >> count;
  log.steps.resize(count);
  for (Step& step : log.steps) {
    int kind = 0;
    std::size_t parts = 0;
    in >> kind >> step.stream >> step.event >> step.comm >> parts;
    step.kind = static_cast<Step::Kind>(kind);
    step.parts.resize(parts);
    for (Part& part : step.parts) {
      int call = 0;
      in >> call >> part.peer >> part.bytes;
      part.call = static_cast<Call>(call);
    }
  }
  return log;
}

}  // namespace moesaic::nccl_double
