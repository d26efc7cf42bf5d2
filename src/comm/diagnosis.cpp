#include "comm/diagnosis.h"

#include <fmt/format.h>

#include <algorithm>
#include <tuple>

#include "base/text.h"

namespace moesaic::comm {
namespace {

constexpr std::size_t kListed = 8;

// One operation that some ranks wait in, and those that it lacks.
struct Stall {
  Wait wait;
  Members members;
  std::vector<int> waiting, missing;

  std::string text() const {
    return wait.peer < 0
               ? fmt::format("{} #{} of {} ({})", name_of(wait.operation), wait.number,
                             row_of(wait.group).name, members.text())
               : fmt::format("the {} #{} of rank {} in {} ({})", name_of(wait.operation),
                             wait.number, waiting.front(), row_of(wait.group).name, members.text());
  }
};

class Diagnosis {
 public:
  Diagnosis(const std::map<int, Standing>& standings, const std::vector<std::string>& hosts)
      : standings_(standings), hosts_(hosts) {
    find_stalls();
  }
  std::string text() const;

 private:
  void find_stalls();
  bool has_begun(int rank, const Wait& wait) const;
  std::vector<int> culprits() const;
  const Stall* worst_stall(int culprit) const;
  std::string about(int culprit) const;
  std::string where(int rank) const;
  std::string name(int rank) const {
    const std::string& host = hosts_[static_cast<std::size_t>(rank)];
    return fmt::format("rank {} on {}", rank, host.empty() ? "another host" : host);
  }
  bool was_asked(int rank) const { return !hosts_[static_cast<std::size_t>(rank)].empty(); }

  const std::map<int, Standing>& standings_;
  const std::vector<std::string>& hosts_;
  std::vector<Stall> stalls_;
};

bool Diagnosis::has_begun(int rank, const Wait& wait) const {
  const auto found = standings_.find(rank);
  return found != standings_.end() &&
         found->second.parts[static_cast<std::size_t>(wait.group)].begun >= wait.number;
}

void Diagnosis::find_stalls() {
  using Key = std::tuple<Group, int, std::int64_t, int, int>;
  std::map<Key, Stall> found;
  for (const auto& [rank, standing] : standings_) {
    if (!standing.waits) {
      continue;
    }
    const Wait& wait = standing.wait;
    const Members& members = standing.parts[static_cast<std::size_t>(wait.group)].members;
    const bool message = wait.peer >= 0;
    Stall& stall = found[{wait.group, members.first, wait.number, wait.peer, message ? rank : -1}];
    stall.wait = wait;
    stall.members = members;
    stall.waiting.push_back(rank);
  }
  for (auto& [key, stall] : found) {
    if (stall.wait.peer >= 0) {
      stall.missing = {stall.wait.peer};
    }
    for (int i = 0; stall.wait.peer < 0 && i < stall.members.count; ++i) {
      if (!has_begun(stall.members.rank(i), stall.wait)) {
        stall.missing.push_back(stall.members.rank(i));
      }
    }
    // What a rank that was not asked has begun is not known: it is blamed if nobody else can be.
    const auto asked = [this](int rank) { return was_asked(rank); };
    if (std::any_of(stall.missing.begin(), stall.missing.end(), asked)) {
      std::erase_if(stall.missing, [&](int rank) { return !asked(rank); });
    }
    if (!stall.missing.empty()) {
      stalls_.push_back(std::move(stall));
    }
  }
}

// Ranks that others wait for and that wait for nobody; of a circle, all that are waited for.
std::vector<int> Diagnosis::culprits() const {
  std::vector<std::uint8_t> waits(hosts_.size(), 0);
  std::vector<std::uint8_t> awaited(hosts_.size(), 0);
  for (const Stall& stall : stalls_) {
    for (const int rank : stall.waiting) {
      waits[static_cast<std::size_t>(rank)] = 1;
    }
    for (const int rank : stall.missing) {
      awaited[static_cast<std::size_t>(rank)] = 1;
    }
  }
  std::vector<int> roots, circle;
  for (std::size_t rank = 0; rank < hosts_.size(); ++rank) {
    if (awaited[rank] != 0) {
      (waits[rank] == 0 ? roots : circle).push_back(static_cast<int>(rank));
    }
  }
  return roots.empty() ? circle : roots;
}

// Where the rank is missed: the operation that lacks fewest others, a collective before a message.
const Stall* Diagnosis::worst_stall(int culprit) const {
  const Stall* worst = nullptr;
  for (const Stall& stall : stalls_) {
    const auto rating = [](const Stall& s) {
      return std::tuple(s.missing.size(), s.wait.peer >= 0, -std::ssize(s.waiting));
    };
    const auto& missing = stall.missing;
    if (std::find(missing.begin(), missing.end(), culprit) != missing.end() &&
        (worst == nullptr || rating(stall) < rating(*worst))) {
      worst = &stall;
    }
  }
  return worst;
}

std::string Diagnosis::where(int rank) const {
  const auto found = standings_.find(rank);
  if (!was_asked(rank)) {
    return "cannot be asked with run.mpi_threads = serialized";
  }
  if (found == standings_.end()) {
    return "gives no answer: it is stopped, or its host is out of reach";
  }
  const Standing& standing = found->second;
  std::string text = fmt::format("is in {}", standing.doing.data());
  for (const Stall& stall : stalls_) {
    if (std::find(stall.waiting.begin(), stall.waiting.end(), rank) != stall.waiting.end()) {
      text += fmt::format(" and waits in {}", stall.text());
    }
  }
  return text;
}

std::string Diagnosis::about(int culprit) const {
  const Stall& stall = *worst_stall(culprit);
  const int waiting = stall.waiting.front();
  return fmt::format(
      "{} has not arrived at {}: it {}; {} waits for it there{}, in {}", name(culprit),
      stall.text(), where(culprit), name(waiting),
      stall.waiting.size() == 1 ? "" : fmt::format(" (and {} more)", stall.waiting.size() - 1),
      standings_.at(waiting).doing.data());
}

std::string Diagnosis::text() const {
  const std::vector<int> guilty = culprits();
  std::vector<std::string> lines;
  for (std::size_t i = 0; i < std::min(guilty.size(), kListed); ++i) {
    lines.push_back(about(guilty[i]));
  }
  if (guilty.size() > kListed) {
    lines.push_back(fmt::format("and {} more such ranks", guilty.size() - kListed));
  }
  if (guilty.empty()) {
    for (const bool answered : {false, true}) {
      for (int rank = 0; rank < std::ssize(hosts_) && lines.size() < kListed; ++rank) {
        if (standings_.contains(rank) == answered) {
          lines.push_back(name(rank) + " " + where(rank));
        }
      }
    }
    lines.emplace_back("no rank is known to wait for another");
  }
  return join(lines, "\n");
}

}  // namespace

std::string diagnose(const std::map<int, Standing>& standings,
                     const std::vector<std::string>& hosts) {
  return Diagnosis(standings, hosts).text();
}

}  // namespace moesaic::comm
