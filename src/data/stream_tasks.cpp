#include "data/stream_tasks.h"

#include <algorithm>

namespace moesaic::data {

std::int64_t stream_samples(const CorpusInfo& corpus, std::int64_t seq_len) {
  return std::max<std::int64_t>(0, corpus.tokens - 1) / seq_len;
}

StreamSamples stream_samples_of(const Corpora& corpora, std::int64_t shard, std::int64_t seq_len) {
  const Corpora::Shard& place = corpora.shard(shard);
  const std::int64_t all = stream_samples(corpora.info(place.corpus), seq_len);
  const auto next_sample = [&](std::int64_t token) {
    return std::min((token + seq_len - 1) / seq_len, all);
  };
  const std::int64_t first = next_sample(place.begin);
  return {first, next_sample(place.begin + corpora.shard_info(shard).tokens) - first};
}

std::vector<std::uint8_t> tasks_of_samples(Corpora& corpora, std::int64_t shard,
                                           const StreamSamples& samples, std::int64_t seq_len) {
  std::vector<std::uint8_t> tasks;
  if (samples.count == 0) {
    return tasks;
  }
  const Corpora::Shard& place = corpora.shard(shard);
  const ShardDocuments& table = corpora.document_table(shard);
  std::vector<std::int64_t> tokens(
      std::max<std::size_t>(1, corpora.info(place.corpus).task_names.size()));
  std::size_t first = 0;
  for (std::int64_t i = 0; i < samples.count; ++i) {
    const std::int64_t begin = (samples.first + i) * seq_len - place.begin;
    const std::int64_t end = std::min(begin + seq_len, table.offsets.back());
    while (table.offsets[first + 1] <= begin) {
      ++first;
    }
    std::fill(tokens.begin(), tokens.end(), 0);
    for (std::size_t d = first; d < table.task.size() && table.offsets[d] < end; ++d) {
      tokens[table.task[d]] +=
          std::min(end, table.offsets[d + 1]) - std::max(begin, table.offsets[d]);
    }
    const auto most = std::max_element(tokens.begin(), tokens.end());
    tasks.push_back(static_cast<std::uint8_t>(most - tokens.begin()));
  }
  return tasks;
}

}  // namespace moesaic::data
