#include "comm/ledger.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

namespace moesaic::comm {
namespace {

constexpr std::array<std::string_view, 9> kOperationNames = {
    "all_reduce",     "broadcast", "all_gather", "gather", "all_to_all",
    "reduce_scatter", "barrier",   "receive",    "send"};

}  // namespace

std::string_view name_of(Operation operation) {
  return kOperationNames[static_cast<std::size_t>(operation)];
}

std::string Members::text() const {
  if (count == 1) {
    return fmt::format("rank {}", first);
  }
  if (stride == 1 && run == 0) {
    return fmt::format("ranks {}-{}", first, rank(count - 1));
  }
  std::string text = fmt::format("ranks {}, {}", first, rank(1));
  constexpr int kListed = 4;
  if (count > kListed) {
    return fmt::format("{}, ..., {}", text, rank(count - 1));
  }
  for (int i = 2; i < count; ++i) {
    text += fmt::format(", {}", rank(i));
  }
  return text;
}

Ledger::Entry::~Entry() {
  if (ledger_ != nullptr) {
    ledger_->leave();
  }
}

void Ledger::add(Group group, const Members& members) {
  const std::lock_guard lock(mutex_);
  now_.parts[index_of(group)].members = members;
}

std::int64_t Ledger::begin(Group group) {
  const std::lock_guard lock(mutex_);
  return ++now_.parts[index_of(group)].begun;
}

void Ledger::enter(Wait wait) {
  const std::lock_guard lock(mutex_);
  if (wait.peer >= 0) {
    wait.number = ++now_.parts[index_of(wait.group)].messages;
  }
  now_.wait = wait;
  now_.waits = true;
  since_enter_.restart();
}

void Ledger::launch(Wait wait, std::function<bool()> ended) {
  const std::lock_guard lock(mutex_);
  if (wait.peer >= 0) {
    wait.number = ++now_.parts[index_of(wait.group)].messages;
  }
  // One that waits long is not asked for at every launch.
  constexpr std::size_t kMany = 256;
  if (launched_.size() >= kMany) {
    std::erase_if(launched_, [](const Launched& operation) { return operation.ended(); });
  }
  oldest();
  launched_.push_back({wait, std::move(ended)});
}

const Ledger::Launched* Ledger::oldest() const {
  while (!launched_.empty() && launched_.front().ended()) {
    launched_.pop_front();
  }
  return launched_.empty() ? nullptr : &launched_.front();
}

void Ledger::watch(const void* owner, std::function<std::string()> trouble) {
  const std::lock_guard lock(mutex_);
  if (trouble) {
    owners_[owner] = std::move(trouble);
  } else {
    owners_.erase(owner);
  }
}

std::string Ledger::trouble() const {
  const std::lock_guard lock(mutex_);
  for (const auto& [owner, trouble] : owners_) {
    std::string text = trouble();
    if (!text.empty()) {
      return text;
    }
  }
  return {};
}

void Ledger::leave() {
  const std::lock_guard lock(mutex_);
  now_.waits = false;
  waited_[index_of(now_.wait.group)] += since_enter_.seconds();
}

double Ledger::waited() const {
  const std::lock_guard lock(mutex_);
  return std::accumulate(waited_.begin(), waited_.end(), 0.0);
}

double Ledger::waited(Group group) const {
  const std::lock_guard lock(mutex_);
  return waited_[index_of(group)];
}

int Ledger::rank_of(Group group, int member) const {
  const std::lock_guard lock(mutex_);
  return now_.parts[index_of(group)].members.rank(member);
}

void Ledger::set_task(std::string_view task) {
  const std::lock_guard lock(mutex_);
  task_ = task;
}

Standing Ledger::standing() const {
  const std::lock_guard lock(mutex_);
  Standing standing = now_;
  if (const Launched* const open = standing.waits ? nullptr : oldest()) {
    standing.waits = true;
    standing.wait = open->wait;
  }
  task_.copy(standing.doing.data(), standing.doing.size() - 1);
  return standing;
}

}  // namespace moesaic::comm
