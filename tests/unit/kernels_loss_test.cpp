// Protects the loss: log-probabilities, the best token, and the gradient of the logits; also where
// the vocabulary is split.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

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
    const Tensor stats = poisoned({rows, 3});
    const Tensor best = poisoned({rows}, DType::kI32);
    const Tensor dlogits = poisoned({rows, vocab}, compute());
    backend().softmax_stats(logits_there, target_there, stats, best);
    backend().cross_entropy_backward(logits_there, target_there, stats, to_float(kScale), dlogits);

    const std::string what = fmt::format("({}, {})", rows, vocab);
    const Vector row = download(stats);
    Vector logprob;
    for (std::size_t r = 0; r < target.size(); ++r) {
      logprob.push_back(target[r] < 0 ? 0.0
                                      : row[3 * r + 2] - row[3 * r] - std::log(row[3 * r + 1]));
    }
    expect_close(logprob, reference::target_log_probs(logits, target, vocab), 2e-5,
                 "log-probabilities " + what);
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
    for (const std::int64_t vocab : {1, 2, 16, 53, 259, 512, 1000, 2053}) {
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

// Blocks of nothing but -inf before, between and behind the others; and all but one.
TEST_P(LossKernels, ExcludedLogits) {
  constexpr std::int64_t kVocab = 2053;
  constexpr double kNever = -std::numeric_limits<double>::infinity();
  Vector logits = random({2, kVocab}, "logits");
  std::fill_n(logits.begin(), 600, kNever);
  std::fill_n(logits.begin() + 1000, 1053, kNever);
  std::fill_n(logits.begin() + kVocab, kVocab - 1, kNever);
  check(logits, {700, kVocab - 1}, kVocab);
}

// Nothing that is not a number is lost, wherever it lies.
TEST_P(LossKernels, NotANumberReachesTheSum) {
  constexpr std::int64_t kVocab = 1100;
  const double nan = std::nan("");
  Vector logits = random({4, kVocab}, "logits");
  logits[0] = nan;
  logits[2 * kVocab - 1] = nan;
  std::fill_n(logits.begin() + 2 * kVocab, 600, nan);
  logits[3 * kVocab + 40] = std::numeric_limits<double>::infinity();
  const Tensor stats = poisoned({4, 3});
  const Tensor best = poisoned({4}, DType::kI32);
  backend().zero(stats);
  backend().softmax_stats(upload(logits, {4, kVocab}), upload(Indices{1, 1, 700, 1}, {4}), stats,
                          best);
  const Vector row = download(stats);
  for (std::size_t r = 0; r < 4; ++r) {
    EXPECT_FALSE(std::isfinite(row[3 * r + 1])) << "row " << r;
  }
}

TEST_P(LossKernels, TheLowerIndexWinsTies) {
  Vector logits(120, 0.0);
  logits[40 + 33] = 1.0;
  logits[40 + 35] = 1.0;
  logits[80 + 2] = -1.0;
  check(logits, {0, 33, 2}, 40);
}

// A share of the vocabulary, with the stats of all of it: the target of row 1 lies elsewhere.
TEST_P(LossKernels, AShareOfTheVocabulary) {
  const Vector logits = random({3, 40}, "logits");
  const Indices target{2, 33, -1};
  const Tensor stats = poisoned({3, 3});
  const Tensor best = poisoned({3}, DType::kI32);
  backend().softmax_stats(upload(logits, {3, 40}), upload(target, {3}), stats, best);
  Vector share;
  for (std::size_t r = 0; r < 3; ++r) {
    share.insert(share.end(), logits.begin() + static_cast<std::ptrdiff_t>(40 * r),
                 logits.begin() + static_cast<std::ptrdiff_t>(40 * r + 17));
  }
  const Tensor dshare = poisoned({3, 17}, compute());
  backend().cross_entropy_backward(upload(share, {3, 17}), upload(Indices{2, 17, -1}, {3}), stats,
                                   0.5F, dshare);
  const Vector whole = reference::cross_entropy_backward(logits, target, 40, 0.5);
  Vector expected;
  for (std::size_t r = 0; r < 3; ++r) {
    expected.insert(expected.end(), whole.begin() + static_cast<std::ptrdiff_t>(40 * r),
                    whole.begin() + static_cast<std::ptrdiff_t>(40 * r + 17));
  }
  expect_close(download(dshare), expected, tolerance(), "dlogits");

  const Tensor own = poisoned({3, 3});
  backend().softmax_stats(upload(share, {3, 17}), upload(Indices{2, 17, -1}, {3}), own, best);
  EXPECT_EQ(download(own)[5], 0.0);  // the logit of a target that is elsewhere
}

INSTANTIATE_TEST_SUITE_P(Backends, LossKernels, all_cases(), case_name);

}  // namespace
}  // namespace moesaic::testing
