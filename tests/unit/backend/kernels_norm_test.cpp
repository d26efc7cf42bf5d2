// Protects RMS norm and the embedding against their references.
#include <fmt/format.h>

#include "reference/dispatch.h"
#include "reference/loss.h"
#include "reference/norm.h"
#include "unit/backend/kernel_test.h"

namespace moesaic::testing {
namespace {

class NormKernels : public KernelTest {};
class NormBackwardKernels : public KernelTest {};
class EmbeddingKernels : public KernelTest {};

constexpr std::initializer_list<std::int64_t> kDims = {5, 16, 37, 130};
constexpr float kEps = 1e-5F;

TEST_P(NormKernels, Forward) {
  for (const std::int64_t rows : kRowCounts) {
    for (const std::int64_t dim : kDims) {
      const Vector x = random({rows, dim}, "x");
      const Vector weight = random({dim}, "weight");
      const Tensor y = poisoned({rows, dim}, compute());
      const Tensor rstd = poisoned({rows});
      backend().rms_norm(upload(x, {rows, dim}), upload(weight, {dim}), kEps, y, rstd);
      const reference::RmsNorm expected = reference::rms_norm(x, weight, kEps);
      const std::string what = fmt::format("({}, {})", rows, dim);
      expect_close(download(y), expected.y, tolerance(), "y " + what);
      expect_close(download(rstd), expected.rstd, 2e-5, "rstd " + what);
    }
  }
}

TEST_P(NormBackwardKernels, AddsTheWeightGradient) {
  for (const std::int64_t rows : kRowCounts) {
    for (const std::int64_t dim : kDims) {
      const Vector x = random({rows, dim}, "x");
      const Vector weight = random({dim}, "weight");
      const Vector dy = random({rows, dim}, "dy");
      const Vector before = random({dim}, "before");
      const Vector rstd = reference::rms_norm(x, weight, kEps).rstd;
      const Tensor dx = poisoned({rows, dim});
      const Tensor dweight = upload(before, {dim});
      backend().rms_norm_backward(upload(dy, {rows, dim}), upload(x, {rows, dim}),
                                  upload(weight, {dim}), upload(rstd, {rows}), dx, dweight);
      const auto expected = reference::rms_norm_backward(dy, x, weight, kEps);
      const std::string what = fmt::format("({}, {})", rows, dim);
      expect_close(download(dx), expected.dx, 2e-5, "dx " + what);
      expect_close(download(dweight), sum(before, expected.dweight), 2e-5, "dweight " + what);
    }
  }
}

TEST_P(EmbeddingKernels, ForwardAndBackward) {
  constexpr std::int64_t kVocab = 11;  // fewer than tokens: rows repeat
  for (const std::int64_t tokens : kRowCounts) {
    for (const std::int64_t dim : kDims) {
      const Vector table = random({kVocab, dim}, "table");
      const Vector dy = random({tokens, dim}, "dy");
      const Vector before = random({kVocab, dim}, "before");
      const Indices token = random_indices(tokens, kVocab, "token");
      const Tensor y = poisoned({tokens, dim});
      const Tensor dtable = upload(before, {kVocab, dim});
      backend().embedding(upload(table, {kVocab, dim}), upload(token, {tokens}), y);
      backend().embedding_backward(upload(dy, {tokens, dim}), upload(token, {tokens}), dtable);
      EXPECT_EQ(download(y), reference::gather_rows(table, token, dim));
      expect_close(download(dtable),
                   sum(before, reference::embedding_backward(dy, token, kVocab, dim)), 2e-5,
                   fmt::format("dtable of {} tokens, dim {}", tokens, dim));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Backends, NormKernels, all_cases(), case_name);
INSTANTIATE_TEST_SUITE_P(Backends, NormBackwardKernels, fp32_cases(), case_name);
INSTANTIATE_TEST_SUITE_P(Backends, EmbeddingKernels, fp32_cases(), case_name);

}  // namespace
}  // namespace moesaic::testing
