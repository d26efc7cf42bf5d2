// Protects the loss: log-probabilities, the best token, and the gradient of the logits.
#include <fmt/format.h>

#include "reference/loss.h"
#include "unit/kernel_test.h"

namespace moesaic::testing {
namespace {

class LossKernels : public KernelTest {
 protected:
  void check(const Vector& logits, const Indices& target, std::int64_t vocab) const {
    const std::int64_t rows = std::ssize(target);
    constexpr double kScale = 0.125;
    const Tensor logits_there = upload(logits, {rows, vocab});
    const Tensor target_there = upload(target, {rows});
    const Tensor scored = poisoned({rows});
    const Tensor best = poisoned({rows}, DType::kI32);
    const Tensor trained = poisoned({rows});
    const Tensor dlogits = poisoned({rows, vocab}, compute());
    backend().target_log_probs(logits_there, target_there, scored, best);
    backend().cross_entropy(logits_there, target_there, to_float(kScale), trained, dlogits);

    const std::string what = fmt::format("({}, {})", rows, vocab);
    const Vector expected = reference::target_log_probs(logits, target, vocab);
    expect_close(download(scored), expected, 2e-5, "scored " + what);
    expect_close(download(trained), expected, 2e-5, "trained " + what);
    EXPECT_EQ(download_indices(best), reference::best_tokens(logits, vocab)) << what;
    expect_close(download(dlogits),
                 reference::cross_entropy_backward(logits, target, vocab, kScale), tolerance(),
                 "dlogits " + what);
  }
};

// Every third target is not counted.
Indices targets(std::int64_t rows, std::int64_t vocab) {
  Indices target = random_indices(rows, vocab, "target");
  for (std::size_t i = 1; i < target.size(); i += 3) {
    target[i] = -1;
  }
  return target;
}

TEST_P(LossKernels, MatchesForEverySize) {
  for (const std::int64_t rows : kRowCounts) {
    for (const std::int64_t vocab : {1, 2, 16, 53, 259, 1000}) {
      check(random({rows, vocab}, "logits"), targets(rows, vocab), vocab);
    }
  }
}

TEST_P(LossKernels, LargeLogitsNeitherOverflowNorVanish) {
  Vector logits = random({17, 53}, "logits");
  for (double& logit : logits) {
    logit = to_float(logit * 3000.0);
  }
  check(logits, targets(17, 53), 53);
}

TEST_P(LossKernels, TheLowerIndexWinsTies) {
  Vector logits(120, 0.0);
  logits[40 + 33] = 1.0;
  logits[40 + 35] = 1.0;
  logits[80 + 2] = -1.0;
  check(logits, {0, 33, 2}, 40);
}

INSTANTIATE_TEST_SUITE_P(Backends, LossKernels, all_cases(), case_name);

}  // namespace
}  // namespace moesaic::testing
