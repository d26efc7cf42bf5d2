#include "model/expert_pool.h"

#include <algorithm>

#include "base/error.h"
#include "base/share.h"

namespace moesaic::model {
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

ExpertPool make_pool(const std::string& states, int ranks) {
  ExpertPool pool;
  for (const char letter : states) {
    pool.state.push_back(state_of(letter));
  }
  pool.of_rank.resize(static_cast<std::size_t>(ranks));
  for (const ExpertState kind : {ExpertState::kRegular, ExpertState::kSpare}) {
    std::vector<std::int32_t> numbers;
    for (std::int32_t e = 0; e < pool.size(); ++e) {
      if (pool.is(e, kind)) {
        numbers.push_back(e);
      }
    }
    for (int r = 0; r < ranks; ++r) {
      const Slice share = share_of(std::ssize(numbers), r, ranks);
      const auto begin = numbers.begin() + share.begin;
      std::vector<std::int32_t>& own = pool.of_rank[static_cast<std::size_t>(r)];
      own.insert(own.end(), begin, begin + share.count);
      std::sort(own.begin(), own.end());
    }
  }
  return pool;
}

}  // namespace moesaic::model
