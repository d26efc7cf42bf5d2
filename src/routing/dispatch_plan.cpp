#include "routing/dispatch_plan.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace moesaic::routing {
namespace {

class Planner {
 public:
  Planner(const RoutedTokens& tokens, const ExpertPool& expert_pool, const SlotRule& rule)
      : tokens_(tokens), expert_pool_(expert_pool), rule_(rule) {
    const auto experts = static_cast<std::size_t>(expert_pool.size());
    plan_.top_k = tokens.top_k;
    plan_.target.assign(tokens.choice.begin(), tokens.choice.end());
    plan_.outcome.assign(tokens.choice.size(), DispatchOutcome::kKept);
    for (auto* counts : {&plan_.chosen, &plan_.dropped, &plan_.rerouted, &plan_.rows}) {
      counts->assign(experts, 0);
    }
    of_expert_.resize(experts);
  }

  DispatchPlan make() {
    collect();
    if (rule_.slots > 0) {
      settle_overflow();
    }
    lay_rows();
    return std::move(plan_);
  }

 private:
  // By weight, then by token: who stays, and who is rerouted first.
  bool goes_before(std::size_t a, std::size_t b) const {
    return tokens_.weight[a] != tokens_.weight[b] ? tokens_.weight[a] > tokens_.weight[b] : a < b;
  }

  void collect() {
    for (std::size_t i = 0; i < tokens_.choice.size(); ++i) {
      const std::int32_t expert = tokens_.choice[i];
      if (expert < 0) {
        continue;
      }
      require(expert < expert_pool_.size() && expert_pool_.is(expert, ExpertState::kRegular),
              "choice of an expert that is not regular");
      of_expert_[static_cast<std::size_t>(expert)].push_back(i);
    }
    for (std::size_t e = 0; e < of_expert_.size(); ++e) {
      plan_.chosen[e] = std::ssize(of_expert_[e]);
      plan_.rows[e] = plan_.chosen[e];
    }
  }

  // Takes the choices that find no slot away from their experts.
  std::vector<std::size_t> take_overflow() {
    std::vector<std::size_t> overflow;
    for (std::size_t e = 0; e < of_expert_.size(); ++e) {
      std::vector<std::size_t> choices = of_expert_[e];
      if (std::ssize(choices) <= rule_.slots) {
        continue;
      }
      const auto border = choices.begin() + rule_.slots;
      std::nth_element(choices.begin(), border, choices.end(),
                       [&](std::size_t a, std::size_t b) { return goes_before(a, b); });
      overflow.insert(overflow.end(), border, choices.end());
      plan_.rows[e] = rule_.slots;
    }
    std::sort(overflow.begin(), overflow.end(),
              [&](std::size_t a, std::size_t b) { return goes_before(a, b); });
    return overflow;
  }

  bool has(std::size_t token, std::int32_t expert) const {
    const auto k = static_cast<std::size_t>(tokens_.top_k);
    const auto begin = plan_.target.begin() + static_cast<std::ptrdiff_t>(token * k);
    return std::find(begin, begin + tokens_.top_k, expert) != begin + tokens_.top_k;
  }

  // The expert of this kind with a free slot that the token would go to rather than to any other.
  std::int32_t best_free(std::size_t token, ExpertState kind) const {
    const auto experts = static_cast<std::size_t>(expert_pool_.size());
    const std::span<const float> willing = tokens_.selection.subspan(token * experts, experts);
    std::int32_t best = -1;
    for (std::size_t e = 0; e < experts; ++e) {
      const auto expert = static_cast<std::int32_t>(e);
      const bool better =
          willing[e] > (best < 0 ? -INFINITY : willing[static_cast<std::size_t>(best)]);
      if (better && expert_pool_.is(expert, kind) && plan_.rows[e] < rule_.slots &&
          !has(token, expert)) {
        best = expert;
      }
    }
    return best;
  }

  void settle_overflow() {
    const std::vector<std::size_t> overflow = take_overflow();
    for (const std::size_t i : overflow) {
      const std::size_t token = i / static_cast<std::size_t>(tokens_.top_k);
      const auto chosen = static_cast<std::size_t>(tokens_.choice[i]);
      std::int32_t target = -1;
      if (rule_.overflow == config::Overflow::kSpare) {
        target = best_free(token, ExpertState::kSpare);
        plan_.outcome[i] = DispatchOutcome::kSpare;
      }
      if (target < 0 && rule_.overflow != config::Overflow::kDrop) {
        target = best_free(token, ExpertState::kRegular);
        plan_.outcome[i] = DispatchOutcome::kNext;
      }
      if (target >= 0) {
        ++plan_.rerouted[chosen];
        ++plan_.rows[static_cast<std::size_t>(target)];
      } else {
        plan_.outcome[i] = DispatchOutcome::kDropped;
        ++plan_.dropped[chosen];
      }
      plan_.target[i] = target;
    }
  }

  void lay_rows() {
    std::vector<std::int32_t> next(of_expert_.size(), 0);
    std::int32_t rows = 0;
    for (const auto& experts : expert_pool_.of_rank) {
      for (const std::int32_t e : experts) {
        plan_.order.push_back(e);
        next[static_cast<std::size_t>(e)] = rows;
        rows += static_cast<std::int32_t>(plan_.rows[static_cast<std::size_t>(e)]);
      }
    }
    plan_.source.resize(static_cast<std::size_t>(rows));
    for (std::size_t i = 0; i < plan_.target.size(); ++i) {
      const std::int32_t expert = plan_.target[i];
      plan_.position.push_back(expert < 0 ? -1 : next[static_cast<std::size_t>(expert)]++);
      if (expert >= 0) {
        plan_.source[static_cast<std::size_t>(plan_.position[i])] =
            static_cast<std::int32_t>(i / static_cast<std::size_t>(tokens_.top_k));
      }
    }
  }

  const RoutedTokens& tokens_;
  const ExpertPool& expert_pool_;
  const SlotRule rule_;
  DispatchPlan plan_;
  std::vector<std::vector<std::size_t>> of_expert_;  // [E] places in (T, K) that chose it
};

}  // namespace

bool DispatchPlan::has_rerouted() const {
  return std::any_of(rerouted.begin(), rerouted.end(), [](std::int64_t n) { return n > 0; });
}

DispatchPlan plan_dispatch(const RoutedTokens& tokens, const ExpertPool& expert_pool,
                           const SlotRule& rule) {
  require(tokens.choice.size() == tokens.weight.size(), "each choice needs a weight");
  return Planner(tokens, expert_pool, rule).make();
}

DispatchPlan part_of(const DispatchPlan& plan, std::span<const Slice> tokens) {
  std::vector<std::int32_t> own(plan.position.size() / static_cast<std::size_t>(plan.top_k), -1);
  for (std::int32_t next = 0; const Slice slice : tokens) {
    for (std::int64_t token = slice.begin; token < slice.end(); ++token) {
      own[static_cast<std::size_t>(token)] = next++;
    }
  }
  DispatchPlan part;
  part.top_k = plan.top_k;
  part.order = plan.order;
  part.chosen = plan.chosen;
  part.dropped = plan.dropped;
  part.rerouted = plan.rerouted;
  part.rows.assign(plan.rows.size(), 0);
  std::vector<std::int32_t> new_row(plan.source.size(), -1);
  std::size_t row = 0;
  for (const std::int32_t expert : plan.order) {
    const auto e = static_cast<std::size_t>(expert);
    const std::int64_t before = std::ssize(part.source);
    for (const std::size_t end = row + static_cast<std::size_t>(plan.rows[e]); row < end; ++row) {
      const std::int32_t token = own[static_cast<std::size_t>(plan.source[row])];
      if (token >= 0) {
        new_row[row] = static_cast<std::int32_t>(part.source.size());
        part.source.push_back(token);
      }
    }
    part.rows[e] = std::ssize(part.source) - before;
  }
  for (const Slice slice : tokens) {
    const std::int64_t end = slice.end() * plan.top_k;
    for (std::int64_t place = slice.begin * plan.top_k; place < end; ++place) {
      const auto i = static_cast<std::size_t>(place);
      const std::int32_t old = plan.position[i];
      part.position.push_back(old < 0 ? -1 : new_row[static_cast<std::size_t>(old)]);
      part.target.push_back(plan.target[i]);
      part.outcome.push_back(plan.outcome[i]);
    }
  }
  return part;
}

}  // namespace moesaic::routing
