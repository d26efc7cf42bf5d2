#include "data/sample.h"

#include <algorithm>

namespace moesaic::data {

MicroBatch micro_batch_of(std::span<const Sample> samples) {
  MicroBatch batch;
  const auto is_weighted = [](const Sample& sample) {
    return std::any_of(sample.weight.begin(), sample.weight.end(),
                       [](float weight) { return weight != 1.0F; });
  };
  const bool weighted = std::any_of(samples.begin(), samples.end(), is_weighted);
  for (const Sample& sample : samples) {
    const auto base = static_cast<std::int32_t>(batch.size());
    const std::int32_t number = batch.sample.empty() ? 0 : batch.sample.back() + 1;
    batch.sample.insert(batch.sample.end(), sample.token.size(), number);
    batch.token.insert(batch.token.end(), sample.token.begin(), sample.token.end());
    batch.target.insert(batch.target.end(), sample.target.begin(), sample.target.end());
    batch.task.insert(batch.task.end(), sample.task.begin(), sample.task.end());
    for (std::size_t i = 0; i < sample.token.size(); ++i) {
      batch.position.push_back(static_cast<std::int32_t>(i) - sample.begin[i]);
      batch.first_key.push_back(base + sample.begin[i]);
    }
    if (sample.whole) {
      batch.key_runs.push_back({.begin = base, .rows = sample.rows()});
    }
    if (weighted) {
      batch.weight.insert(batch.weight.end(), sample.weight.begin(), sample.weight.end());
    }
  }
  return batch;
}

routing::TokenRows token_rows_of(std::span<const Sample> samples, std::int64_t first) {
  routing::TokenRows rows;
  rows.first = first;
  for (const Sample& sample : samples) {
    rows.token.insert(rows.token.end(), sample.token.begin(), sample.token.end());
    rows.task.insert(rows.task.end(), sample.task.begin(), sample.task.end());
    rows.document.insert(rows.document.end(), sample.document.begin(), sample.document.end());
    rows.position.insert(rows.position.end(), sample.position.begin(), sample.position.end());
    rows.corpus.resize(rows.token.size(), static_cast<std::uint16_t>(sample.corpus));
  }
  return rows;
}

}  // namespace moesaic::data
