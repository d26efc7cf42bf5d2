// Backward of products with adapters against central differences, where A and B alone are trained.
#include <gtest/gtest.h>

#include "unit/model/gradient_fixture.h"

namespace moesaic::model {
namespace {

// Layers with an adapter beside every product, which is all that is trained.
class AdapterTest : public GradientTest {
 protected:
  AdapterTest() : GradientTest(tuning()) {}

  static Tuning tuning() {
    config::Adapter adapter;
    adapter.rank = 3;
    adapter.alpha = 2.0;
    adapter.targets = {"*"};
    Tuning tuning{.roles = {}, .adapters = AdapterRules(adapter)};
    tuning.roles.set_trained({NamePattern("adapter", 1, false)}, {});
    return tuning;
  }

  // All products together have so many halves.
  void expect_adapters(std::size_t halves) const {
    std::size_t found = 0;
    for (const Parameter& p : parameters.all()) {
      const bool is_half = is_of_adapter(p.spec.tensors.front().name);
      EXPECT_EQ(p.is_trained(), is_half) << p.spec.tensors.front().name;
      found += is_half ? 1 : 0;
    }
    EXPECT_EQ(found, halves);
  }
};

TEST_F(AdapterTest, Linear) {
  check(Linear(parameters, {whole_tensor("a", {5, 7}), whole_tensor("b", {8, 7})},
               Linear::Full::kBoth, 1.0, Placement{}),
        7);
  expect_adapters(3);  // one A for both, and two B
}

TEST_F(AdapterTest, Attention) {
  check(make_attention());
  expect_adapters(4 + 2);
}

TEST_F(AdapterTest, LatentAttention) {
  set_latent_queries();
  check(make_latent());
  expect_adapters(2 + 2 + 2 + 2 + 2);
}

TEST_F(AdapterTest, Swiglu) {
  check(Swiglu(parameters, "", kWidth, 13, 1.0, 1.0, {}));
  expect_adapters(3 + 2);
}

TEST_F(AdapterTest, MoeWithItsGate) {
  sizes.shared_experts = 1;
  check(make_moe());
  expect_adapters(2 + (3 + 2) + (3 + 2));
}

}  // namespace
}  // namespace moesaic::model
