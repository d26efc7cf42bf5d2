#include "engine/kv_cache.h"

#include "backend/backend.h"

namespace moesaic::engine {
namespace {

std::vector<std::int32_t> tokens_of_page(std::span<const std::int32_t> prompt, std::size_t page) {
  const auto tokens = prompt.subspan(page * kPageTokens, kPageTokens);
  return {tokens.begin(), tokens.end()};
}

}  // namespace

KvCache::KvCache(std::int64_t pages) : state_(static_cast<std::size_t>(pages)) {
  for (std::int64_t page = pages - 1; page >= 0; --page) {
    empty_.push_back(static_cast<std::int32_t>(page));
  }
}

std::int64_t KvCache::pages_for(std::int64_t tokens) {
  return (tokens + kPageTokens - 1) / kPageTokens;
}

std::optional<KvCache::Lease> KvCache::take(const Text& prompt, std::int64_t tokens) {
  Lease lease;
  std::int64_t number = -std::int64_t{prompt.task};
  std::int64_t unused = free();
  // Pages that end before the prompt's last token.
  while ((std::ssize(lease.pages) + 1) * kPageTokens < std::ssize(prompt.tokens)) {
    const auto found = known_.find({number, tokens_of_page(prompt.tokens, lease.pages.size())});
    if (found == known_.end()) {
      break;
    }
    lease.pages.push_back(found->second);
    number = at(found->second).number;
    unused -= at(found->second).users == 0 ? 1 : 0;
  }
  lease.known = std::ssize(lease.pages) * kPageTokens;
  const std::int64_t wanted = pages_for(tokens) - std::ssize(lease.pages);
  if (wanted > unused) {
    return std::nullopt;
  }
  for (const std::int32_t page : lease.pages) {
    if (at(page).users++ == 0) {
      idle_.erase(at(page).idle);
    }
  }
  for (std::int64_t i = 0; i < wanted; ++i) {
    lease.pages.push_back(take_one());
  }
  return lease;
}

std::int32_t KvCache::take_one() {
  std::int32_t page = 0;
  if (!empty_.empty()) {
    page = empty_.back();
    empty_.pop_back();
  } else {
    page = idle_.front();
    idle_.pop_front();
    known_.erase(at(page).known);
    at(page).number = 0;
  }
  at(page).users = 1;
  return page;
}

void KvCache::publish(const Text& prompt, const Lease& lease) {
  std::int64_t before = -std::int64_t{prompt.task};
  for (std::size_t i = 0; (i + 1) * kPageTokens <= prompt.tokens.size(); ++i) {
    const std::int32_t page = lease.pages[i];
    // Where two prompts computed the same page at once, the second one's stays its own.
    const auto [entry, is_new] =
        known_.try_emplace({before, tokens_of_page(prompt.tokens, i)}, page);
    if (is_new) {
      at(page).known = entry;
      at(page).number = next_number_++;
    }
    before = at(entry->second).number;
  }
}

// The last pages first, so that those are given away before what they continue.
void KvCache::release(const Lease& lease) {
  for (auto page = lease.pages.rbegin(); page != lease.pages.rend(); ++page) {
    State& state = at(*page);
    if (--state.users > 0) {
      continue;
    }
    if (state.number == 0) {
      empty_.push_back(*page);
    } else {
      state.idle = idle_.insert(idle_.end(), *page);
    }
  }
}

}  // namespace moesaic::engine
