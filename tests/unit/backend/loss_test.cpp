// Protects the loss: log-probabilities, the best token, and the gradient of the logits; also where
// the vocabulary is split.
#include "reference/loss.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "unit/backend/kernel_test.h"

namespace moesaic::testing {
namespace {

class LossKernels : public KernelTest {
 protected:
  void check(const Vector& logits, const Indices& target, std::int64_t vocab) const {
    const std::int64_t rows = std::ssize(target);
    const Tensor logits_there = upload(logits, {rows, vocab});
    const Tensor target_there = upload(target, {rows});
    const Tensor stats = poisoned({rows, 3});
    const Tensor best = poisoned({rows}, DType::kI32);
    const Tensor dlogits = poisoned({rows, vocab}, compute());
    const Tensor spread = poisoned({rows});
    const Vector weight = random({rows}, "weight");
    backend().softmax_stats(logits_there, target_there, stats, best);
    backend().cross_entropy_backward(logits_there, target_there, stats, upload(weight, {rows}),
                                     dlogits, spread);

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
                 reference::cross_entropy_backward(logits, target, vocab, weight), tolerance(),
                 "dlogits " + what);
    const Vector entropy = reference::entropies(logits, vocab);
    const Vector spreads = download(spread);
    for (std::size_t r = 0; r < target.size(); ++r) {
      const double total = row[3 * r + 1];
      EXPECT_NEAR(target[r] < 0 ? 0.0 : std::log(total) - spreads[r] / total,
                  target[r] < 0 ? spreads[r] : entropy[r], 2e-5)
          << what;
    }
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

// Vocabularies that no part of a device holds at once, with and without whole vectors.
TEST_P(LossKernels, LargeVocabularies) {
  for (const std::int64_t vocab : {4096, 4104, 9001, 12296}) {
    check(random({2, vocab}, "logits"), {vocab - 1, 3}, vocab);
  }
}

// Ties all over a row that is read in parts: the lowest place is found, wherever the others lie.
TEST_P(LossKernels, TiesFarApart) {
  for (const std::int64_t vocab : {9000, 9001}) {
    Vector logits(static_cast<std::size_t>(3 * vocab), 0.5);
    for (const std::int64_t place : {4097, 4500, 8999}) {
      logits[static_cast<std::size_t>(vocab + place)] = 2.0;
    }
    for (const std::int64_t place : {7, 519, 4103, 8999}) {
      logits[static_cast<std::size_t>(2 * vocab + place)] = 2.0;
    }
    check(logits, {0, -1, 8999}, vocab);
  }
}

// dlogits may be the memory of the logits, where both are fp32.
TEST_P(LossKernels, InPlace) {
  if (compute() != DType::kF32) {
    GTEST_SKIP() << "a tensor of bf16 is no tensor of logits";
  }
  for (const std::int64_t vocab : {53, 5000}) {
    const Tensor logits = upload(random({3, vocab}, "logits"), {3, vocab});
    const Tensor target = upload(Indices{vocab - 2, -1, 0}, {3});
    const Tensor weight = upload(Vector{0.5, 1.0, 2.0}, {3});
    const Tensor stats = poisoned({3, 3}), dlogits = poisoned({3, vocab});
    const Tensor spread = poisoned({3}), again = poisoned({3});
    backend().softmax_stats(logits, target, stats, poisoned({3}, DType::kI32));
    backend().cross_entropy_backward(logits, target, stats, weight, dlogits, spread);
    backend().cross_entropy_backward(logits, target, stats, weight, logits, again);
    EXPECT_EQ(download(logits), download(dlogits));
    EXPECT_EQ(download(again), download(spread));
  }
}

// Protects a row from its neighbours: the same row, at every place of every batch.
TEST_P(LossKernels, ARowDependsOnItselfAlone) {
  for (const std::int64_t vocab : {53, 2056}) {
    const Vector one = random({vocab}, "one");
    std::vector<Vector> expected;
    for (const std::int64_t rows : {1, 3, 17, 65}) {
      Vector all;
      for (std::int64_t r = 0; r < rows; ++r) {
        all.insert(all.end(), one.begin(), one.end());
      }
      const Tensor logits = upload(all, {rows, vocab});
      const Tensor target = upload(Indices(static_cast<std::size_t>(rows), 5), {rows});
      const Tensor stats = poisoned({rows, 3}), best = poisoned({rows}, DType::kI32);
      const Tensor dlogits = poisoned({rows, vocab}, compute()), spread = poisoned({rows});
      const Tensor apart = poisoned({rows});
      backend().softmax_stats(logits, target, stats, best);
      backend().cross_entropy_backward(logits, target, stats,
                                       upload(Vector(static_cast<std::size_t>(rows), 0.7), {rows}),
                                       dlogits, spread);
      backend().divergence(logits, upload(Vector(all.size(), 0.1), {rows, vocab}),
                           upload(Vector(static_cast<std::size_t>(2 * rows), 4.0), {rows, 2}),
                           apart);
      std::size_t which = 0;
      for (const Tensor& tensor : {stats, dlogits, spread, apart}) {
        const Vector values = download(tensor);
        const auto width = std::ssize(values) / rows;
        for (std::int64_t r = 0; r < rows; ++r) {
          const Vector row(values.begin() + r * width, values.begin() + (r + 1) * width);
          if (rows == 1) {
            expected.push_back(row);
          }
          ASSERT_EQ(row, expected[which]) << "row " << r << " of " << rows;
        }
        ++which;
      }
    }
  }
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
  const Vector weight{0.5, -2.0, 1.0};
  backend().cross_entropy_backward(upload(share, {3, 17}), upload(Indices{2, 17, -1}, {3}), stats,
                                   upload(weight, {3}), dshare, poisoned({3}));
  const Vector whole = reference::cross_entropy_backward(logits, target, 40, weight);
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

// log sum exp of each row, of both, rounded as they come from softmax_stats.
Vector log_sums(const Vector& reference, const Vector& logits, std::int64_t vocab) {
  Vector sums;
  for (std::size_t begin = 0; begin < logits.size(); begin += static_cast<std::size_t>(vocab)) {
    for (const Vector* const from : {&reference, &logits}) {
      double sum = 0.0;
      for (std::size_t v = begin; v < begin + static_cast<std::size_t>(vocab); ++v) {
        sum += std::exp((*from)[v]);
      }
      sums.push_back(to_float(std::log(sum)));
    }
  }
  return sums;
}

class DivergenceKernel : public LossKernels {
 protected:
  Vector divergence(const Vector& reference, const Vector& logits, const Vector& sums,
                    std::int64_t vocab) const {
    const std::int64_t rows = std::ssize(logits) / vocab;
    const Tensor result = poisoned({rows});
    backend().divergence(upload(reference, {rows, vocab}), upload(logits, {rows, vocab}),
                         upload(sums, {rows, 2}), result);
    return download(result);
  }

  // The logits differ by normal numbers of this scale; share: relative error allowed in a result.
  void check(std::int64_t rows, std::int64_t vocab, double scale, double share) const {
    const Vector reference = random({rows, vocab}, "reference");
    Vector logits = random({rows, vocab}, "difference");
    for (std::size_t i = 0; i < logits.size(); ++i) {
      logits[i] = to_float(reference[i] + scale * logits[i]);
    }
    const Vector found = divergence(reference, logits, log_sums(reference, logits, vocab), vocab);
    const Vector expected = reference::divergence(reference, logits, vocab);
    for (std::size_t r = 0; r < found.size(); ++r) {
      EXPECT_NEAR(found[r], expected[r], share * expected[r] + 1e-10)
          << fmt::format("({}, {}) apart by {}, row {}", rows, vocab, scale, r);
    }
  }
};

// To four digits, also where p and q differ by less than fp32 resolves of log p.
TEST_P(DivergenceKernel, MatchesForEverySizeAndDistance) {
  for (const std::int64_t rows : kRowCounts) {
    for (const std::int64_t vocab : {2, 16, 53, 259, 2053}) {
      for (const double scale : {10.0, 1.0, 0.1, 0.01}) {
        check(rows, vocab, scale, 2e-4);
      }
    }
  }
}

// A model against itself is at no distance, and no rounding makes one negative.
TEST_P(DivergenceKernel, IsZeroForEqualsAndNeverNegative) {
  const Vector reference = random({7, 301}, "reference");
  for (const double d :
       divergence(reference, reference, log_sums(reference, reference, 301), 301)) {
    EXPECT_EQ(d, 0.0);
  }
  Vector logits = reference;
  for (double& logit : logits) {
    logit = to_float(logit + 1e-3);
  }
  for (const double d : divergence(reference, logits, log_sums(reference, logits, 301), 301)) {
    EXPECT_GE(d, 0.0);
    EXPECT_LT(d, 1e-11);
  }
}

// Tokens that one of the two all but excludes.
TEST_P(DivergenceKernel, FarApart) {
  const Vector reference{0.0, -300.0, 0.0, 1.0, 80.0, 0.0};
  const Vector logits{-300.0, 0.0, 0.0, 1.0, 0.0, 80.0};
  const Vector found = divergence(reference, logits, log_sums(reference, logits, 3), 3);
  const Vector expected = reference::divergence(reference, logits, 3);
  expect_close(found, expected, 1e-5, "divergence");
}

// The shares of a vocabulary that ranks of tp have add up to the whole.
TEST_P(DivergenceKernel, SharesAddUp) {
  const Vector reference = random({1, 40}, "reference"), logits = random({1, 40}, "logits");
  const Vector sums = log_sums(reference, logits, 40);
  double total = 0.0;
  for (const auto& [begin, end] : {std::pair{0, 17}, std::pair{17, 40}}) {
    const auto part = [begin = begin, end = end](const Vector& x) {
      return Vector(x.begin() + begin, x.begin() + end);
    };
    total += divergence(part(reference), part(logits), sums, end - begin).front();
  }
  EXPECT_NEAR(total, reference::divergence(reference, logits, 40).front(), 1e-4);
}

TEST_P(DivergenceKernel, NotANumberReachesTheSum) {
  Vector reference = random({1, 40}, "reference");
  const Vector logits = random({1, 40}, "logits");
  const Vector sums = log_sums(reference, logits, 40);
  reference[37] = std::nan("");
  EXPECT_FALSE(std::isfinite(divergence(reference, logits, sums, 40).front()));
}

INSTANTIATE_TEST_SUITE_P(Backends, DivergenceKernel, all_cases(), case_name);
INSTANTIATE_TEST_SUITE_P(Backends, LossKernels, all_cases(), case_name);

}  // namespace
}  // namespace moesaic::testing
