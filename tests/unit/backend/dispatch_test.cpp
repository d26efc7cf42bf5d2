#include "backend/transfer.h"
#include "routing/dispatch_plan.h"
#include "unit/backend/kernel_test.h"

// Protects: the plan of a micro-batch is the same on the device as routing::plan_dispatch, place by
// place: also with ties, without choices, and with experts that nobody chooses.
namespace moesaic::testing {
namespace {

class DispatchKernels : public KernelTest {
 protected:
  static constexpr std::int64_t kExperts = 7;

  // Each token chooses different experts, some of them none; weights have many ties.
  struct Routed {
    std::vector<std::int32_t> choice;
    std::vector<float> weight;
  };
  static Routed routed(std::int64_t tokens, std::int64_t k, bool one_expert) {
    Routed all;
    const Indices start = random_indices(tokens, kExperts, "first");
    const Indices made = random_indices(tokens, k + 1, "made");
    const Indices level = random_indices(tokens * k, 3, "weight");
    for (std::size_t i = 0; i < static_cast<std::size_t>(tokens * k); ++i) {
      const std::size_t t = i / static_cast<std::size_t>(k);
      const auto n = static_cast<std::int64_t>(i) % k;
      const std::int64_t expert = one_expert ? n : (start[t] + 2 * n) % kExperts;
      all.choice.push_back(n < made[t] ? static_cast<std::int32_t>(expert) : -1);
      all.weight.push_back(0.25F * static_cast<float>(level[i]));
    }
    return all;
  }

  void expect_plan(std::int64_t tokens, std::int64_t k, std::int64_t slots, bool one_expert) {
    SCOPED_TRACE(std::to_string(tokens) + " tokens, " + std::to_string(slots) + " slots");
    const Routed all = routed(tokens, k, one_expert);
    routing::ExpertPool pool{.state = std::vector(kExperts, ExpertState::kRegular),
                             .of_rank = {{2, 5, 6}, {0, 1, 3, 4}}};
    const routing::DispatchPlan plan = routing::plan_dispatch({k, all.choice, all.weight, {}}, pool,
                                                              {slots, config::Overflow::kDrop});
    Backend& on = backend();
    const Shape shape{tokens, k};
    const Tensor choice = to_device(on, all.choice, shape);
    const Tensor target = on.empty(DType::kI32, shape);
    const Tensor counts = on.empty(DType::kI32, {3, kExperts});
    on.drop_overflow(choice, to_device(on, all.weight, shape), slots, target, counts);
    EXPECT_EQ(to_host_i32(on, target), plan.target);
    std::vector<std::int32_t> expected;
    for (const auto* list : {&plan.chosen, &plan.dropped, &plan.rows}) {
      expected.insert(expected.end(), list->begin(), list->end());
    }
    EXPECT_EQ(to_host_i32(on, counts), expected);

    const Tensor position = on.empty(DType::kI32, shape);
    const Tensor source = on.empty(DType::kI32, {tokens * k});
    const Tensor offsets = on.empty(DType::kI32, {kExperts + 1});
    on.lay_rows(target, to_device(on, plan.order, {kExperts}), position, source, offsets);
    EXPECT_EQ(to_host_i32(on, position), plan.position);
    std::vector<std::int32_t> sources = plan.source;
    sources.resize(static_cast<std::size_t>(tokens * k), -1);
    EXPECT_EQ(to_host_i32(on, source), sources);
    std::vector<std::int32_t> begins = {0};
    for (const std::int32_t e : plan.order) {
      begins.push_back(begins.back() +
                       static_cast<std::int32_t>(plan.rows[static_cast<std::size_t>(e)]));
    }
    EXPECT_EQ(to_host_i32(on, offsets), begins);
  }
};

TEST_P(DispatchKernels, PlanIsThatOfTheHost) {
  for (const std::int64_t tokens : {0, 1, 3, 65, 700}) {
    for (const std::int64_t slots : {0, 1, 5, 100}) {
      expect_plan(tokens, 3, slots, false);
      expect_plan(tokens, 3, slots, true);
    }
  }
}

// Protects: the gradient of the auxiliary loss counts by segment, or takes the given loads, and
// nothing is divided by nothing.
TEST_P(DispatchKernels, AuxGradient) {
  constexpr std::int64_t kTokens = 130;
  const Routed all = routed(kTokens, 2, false);
  Backend& on = backend();
  const Tensor choice = to_device(on, all.choice, {kTokens, 2});
  std::vector<std::int32_t> segment(kTokens);
  for (std::size_t t = 0; t < segment.size(); ++t) {
    segment[t] = t < 40 ? 0 : t < 128 ? 1 : 3;  // nobody is of segment 2
  }
  const AuxScale scale{.regular = 5, .aux = 0.02, .tokens = 260.0};
  const Tensor daux = on.empty(DType::kF32, {4, kExperts});
  on.aux_gradient(choice, to_device(on, segment, {kTokens}), {}, scale, daux);
  std::vector<double> count(4 * kExperts, 0.0), sum(4, 0.0);
  for (std::size_t i = 0; i < all.choice.size(); ++i) {
    const auto s = static_cast<std::size_t>(segment[i / 2]);
    if (all.choice[i] >= 0) {
      count[s * kExperts + static_cast<std::size_t>(all.choice[i])] += 1.0;
      sum[s] += 1.0;
    }
  }
  std::vector<float> expected;
  for (std::size_t i = 0; i < count.size(); ++i) {
    const double wanted = count[i] > 0.0 ? count[i] * (5.0 / sum[i / kExperts]) : 0.0;
    expected.push_back(static_cast<float>(0.02 * wanted / 260.0));
  }
  EXPECT_EQ(to_host_f32(on, daux), expected);

  const std::vector<float> load = {0.5F, 0.25F, 0.0F, 0.0F, 0.125F, 0.125F, 0.0F};
  const Tensor one = on.empty(DType::kF32, {1, kExperts});
  on.aux_gradient(choice, {}, to_device(on, load, {kExperts}), scale, one);
  expected.clear();
  for (const float share : load) {
    expected.push_back(static_cast<float>(0.02 * (5.0 * static_cast<double>(share)) / 260.0));
  }
  EXPECT_EQ(to_host_f32(on, one), expected);
}

INSTANTIATE_TEST_SUITE_P(Engines, DispatchKernels, fp32_cases(), case_name);

}  // namespace
}  // namespace moesaic::testing
