#include "infer/tally.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace moesaic::infer {

Tally::Tally(const data::ShardDocuments& documents)
    : context_(documents.context), bytes_(documents.bytes), bytes_known_(documents.knows_bytes) {
  const std::size_t count = documents.offsets.size() - 1;
  for (std::size_t d = 0; d < count; ++d) {
    length_.push_back(documents.offsets[d + 1] - documents.offsets[d]);
  }
  scores_ = {std::vector<double>(count, 0.0), std::vector<std::int64_t>(count, 0),
             std::vector<std::uint8_t>(count, 0), documents.id};
}

void Tally::add(const data::WindowBatch& windows, const record::TokenScores& tokens,
                std::span<const std::uint8_t> is_argmax) {
  const std::span<const float> logprob(tokens.logprob);
  reference_.add(tokens);
  std::size_t at = 0;
  for (const data::Window& window : windows) {
    const auto d = static_cast<std::size_t>(window.document);
    const auto targets = static_cast<std::size_t>(window.targets());
    const auto hits = is_argmax.subspan(at, targets);
    const bool all = std::all_of(hits.begin(), hits.end(), [](std::uint8_t hit) { return hit; });
    const bool before = scores_.tokens[d] == 0 || scores_.greedy[d] != 0;
    scores_.greedy[d] = all && before ? 1 : 0;
    scores_.tokens[d] += window.targets();
    for (const float p : logprob.subspan(at, targets)) {
      scores_.logprob[d] += static_cast<double>(p);
    }
    at += targets;
  }
}

void Tally::restore(record::DocumentScores documents, record::ReferenceTotals reference) {
  require(documents.id == scores_.id, "a tally of other documents");
  scores_ = std::move(documents);
  reference_ = std::move(reference);
  reference_.details = {};
}

record::ScoreTotals Tally::totals(std::int64_t vocab_size) const {
  record::ScoreTotals totals{.documents = std::ssize(length_), .reference = reference_};
  for (std::size_t d = 0; d < length_.size(); ++d) {
    totals.tokens += scores_.tokens[d];
    totals.logprob += scores_.logprob[d];
    const std::int64_t to_predict = std::max<std::int64_t>(0, length_[d] - 1);
    // Nats count where the bytes of their text are known, too.
    if (bytes_known_ && context_[d] == 0 && scores_.tokens[d] == to_predict) {
      // Nothing predicts the first token: it is charged as one of vocab_size equal choices.
      const double first = length_[d] > 0 ? std::log(static_cast<double>(vocab_size)) : 0.0;
      totals.whole_nats += first - scores_.logprob[d];
      totals.whole_bytes += bytes_[d];
    }
  }
  return totals;
}

}  // namespace moesaic::infer
