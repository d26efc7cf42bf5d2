// Protects the embedding against its reference.
#include "reference/embedding.h"

#include <fmt/format.h>

#include "reference/rows.h"
#include "unit/backend/kernel_test.h"

namespace moesaic::testing {
namespace {

class EmbeddingKernels : public KernelTest {};

constexpr std::initializer_list<std::int64_t> kDims = {5, 16, 37, 130};

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

INSTANTIATE_TEST_SUITE_P(Backends, EmbeddingKernels, fp32_cases(), case_name);

}  // namespace
}  // namespace moesaic::testing
