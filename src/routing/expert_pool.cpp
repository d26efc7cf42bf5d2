#include "routing/expert_pool.h"

#include <algorithm>

#include "base/error.h"
#include "base/share.h"

namespace moesaic::routing {
namespace {

ExpertState state_of(char letter) {
  switch (letter) {
    case 'r':
      return ExpertState::kRegular;
    case 's':
      return ExpertState::kSpare;
    default:
      require(letter == 'x', "an expert's state is r, s or x");
      return ExpertState::kRetired;
  }
}

void spread_blocks(ExpertPool& expert_pool) {
  const int ranks = static_cast<int>(expert_pool.of_rank.size());
  for (const ExpertState kind : {ExpertState::kRegular, ExpertState::kSpare}) {
    std::vector<std::int32_t> numbers;
    for (std::int32_t e = 0; e < expert_pool.size(); ++e) {
      if (expert_pool.is(e, kind)) {
        numbers.push_back(e);
      }
    }
    for (int r = 0; r < ranks; ++r) {
      const Slice share = share_of(std::ssize(numbers), r, ranks);
      const auto begin = numbers.begin() + share.begin;
      std::vector<std::int32_t>& own = expert_pool.of_rank[static_cast<std::size_t>(r)];
      own.insert(own.end(), begin, begin + share.count);
    }
  }
}

void spread_load(ExpertPool& expert_pool, std::span<const float> load) {
  require(load.size() == expert_pool.state.size(), "a load for each expert");
  std::vector<std::int32_t> numbers;
  for (std::int32_t e = 0; e < expert_pool.size(); ++e) {
    if (!expert_pool.is(e, ExpertState::kRetired)) {
      numbers.push_back(e);
    }
  }
  const auto of = [&](std::int32_t e) { return load[static_cast<std::size_t>(e)]; };
  std::stable_sort(numbers.begin(), numbers.end(),
                   [&](std::int32_t a, std::int32_t b) { return of(a) > of(b); });
  const std::size_t ranks = expert_pool.of_rank.size();
  const std::size_t least = numbers.size() / ranks;
  std::size_t larger = numbers.size() % ranks;  // ranks that may still get one more
  std::vector<double> sum(ranks, 0.0);
  for (const std::int32_t e : numbers) {
    const auto has_room = [&](std::size_t r) {
      return expert_pool.of_rank[r].size() < least + (larger > 0 ? 1 : 0);
    };
    std::size_t best = ranks;
    for (std::size_t r = 0; r < ranks; ++r) {
      best = has_room(r) && (best == ranks || sum[r] < sum[best]) ? r : best;
    }
    larger -= expert_pool.of_rank[best].size() == least ? 1 : 0;
    expert_pool.of_rank[best].push_back(e);
    sum[best] += static_cast<double>(of(e));
  }
}

}  // namespace

std::int64_t ExpertPool::count(ExpertState wanted) const {
  return std::count(state.begin(), state.end(), wanted);
}

std::vector<std::int32_t> ExpertPool::state_numbers() const {
  std::vector<std::int32_t> numbers;
  for (const ExpertState s : state) {
    numbers.push_back(static_cast<std::int32_t>(s));
  }
  return numbers;
}

ExpertPool make_expert_pool(const std::string& states, int ranks, std::span<const float> load) {
  ExpertPool expert_pool;
  for (const char letter : states) {
    expert_pool.state.push_back(state_of(letter));
  }
  expert_pool.of_rank.resize(static_cast<std::size_t>(ranks));
  if (load.empty()) {
    spread_blocks(expert_pool);
  } else {
    spread_load(expert_pool, load);
  }
  for (std::vector<std::int32_t>& own : expert_pool.of_rank) {
    std::sort(own.begin(), own.end());
  }
  return expert_pool;
}

}  // namespace moesaic::routing
