#include "data/samples.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "base/error.h"
#include "base/text.h"
#include "data/stream_tasks.h"
#include "files/hdf5/thread.h"

namespace moesaic::data {
namespace {

// Lists are kept for so many shards (a corpus holds as many open), or for as many more as have so
// many samples together: 24 MiB.
constexpr std::size_t kListedShards = 8;
constexpr std::size_t kListedSamples = std::size_t{1} << 20U;

std::vector<std::string> names_in(const Corpora& corpora) {
  std::vector<std::string> names;
  for (std::size_t c = 0; c < corpora.size(); ++c) {
    for (const std::string& name : corpora.info(c).task_names) {
      if (std::find(names.begin(), names.end(), name) == names.end()) {
        names.push_back(name);
      }
    }
  }
  return names;
}

void check_known(const std::string& name, const std::vector<std::string>& known) {
  if (std::find(known.begin(), known.end(), name) == known.end()) {
    const std::string near = nearest(name, known);
    throw Error(Exit::kUsage,
                fmt::format("data.task_weights names the task {}, which no corpus has{}; they have "
                            "{}",
                            name, near.empty() ? "" : fmt::format("; did you mean {}?", near),
                            join(known, ", ")));
  }
}

}  // namespace

std::vector<std::int64_t> stream_samples(const Corpora& corpora, std::int64_t seq_len) {
  std::vector<std::int64_t> counts;
  for (std::size_t c = 0; c < corpora.size(); ++c) {
    counts.push_back(stream_samples(corpora.info(c), seq_len));
  }
  return counts;
}

Samples Samples::make(Corpora& corpora, const config::Data& data, const comm::Communicator& world) {
  Samples all;
  all.corpora_ = &corpora;
  all.kind_ = data.samples;
  all.too_long_ = data.truncate;
  all.seq_len_ = data.seq_len;
  all.weights_ = data.corpus_weights;
  all.first_shard_.push_back(0);
  for (std::size_t c = 0; c < corpora.size(); ++c) {
    all.first_shard_.push_back(all.first_shard_.back() + corpora.info(c).shards.size());
  }
  all.documents_.resize(corpora.size());
  world.together("count the samples of each task",
                 [&] { all.set_task_weights(data.task_weights); });
  if (all.has_tables()) {
    all.count(world);
    world.together("find samples of each task", [&] { all.require_samples(); });
  }
  return all;
}

void Samples::set_task_weights(const std::vector<config::NamedWeight>& weights) {
  if (weights.empty()) {
    return;
  }
  weights_.clear();
  const std::vector<std::string> known = names_in(*corpora_);
  for (const auto& [name, weight] : weights) {
    check_known(name, known);
    names_.push_back(name);
    weights_.push_back(weight);
  }
  for (std::size_t c = 0; c < corpora_->size(); ++c) {
    std::vector<std::size_t>& weight_of = weight_of_.emplace_back();
    for (const std::string& name : corpora_->info(c).task_names) {
      const auto found = std::find(names_.begin(), names_.end(), name);
      weight_of.push_back(static_cast<std::size_t>(found - names_.begin()));
    }
    if (weight_of.empty()) {
      weight_of.push_back(names_.size());  // without names, every document has task 0
    }
  }
}

// Collective over world: the counts of all shards, each found by one rank.
void Samples::count(const comm::Communicator& world) {
  const auto shards = static_cast<std::size_t>(corpora_->shards());
  const std::size_t rows = by_task() ? names_.size() + 1 : 1;
  std::vector<std::int64_t> counts(rows * shards, 0);
  world.together("count the samples", [&] {
    const auto stride = static_cast<std::size_t>(world.size());
    for (auto s = static_cast<std::size_t>(world.rank()); s < shards; s += stride) {
      const ByRow samples = files::hdf5_run([&] { return list(s, &documents_); });
      for (std::size_t row = 0; row < rows; ++row) {
        counts[row * shards + s] = std::ssize(samples[row]);
        for (const Place& place : samples[row]) {
          rows_ += place.rows;
          most_rows_ = std::max(most_rows_, place.rows);
        }
      }
    }
  });
  world.all_reduce(std::span(counts), comm::Reduce::kSum);
  std::vector<std::int64_t> sums = {rows_};
  for (const DocumentCounts& c : documents_) {
    sums.insert(sums.end(), {c.documents, c.dropped, c.cut, c.without_targets});
  }
  world.all_reduce(std::span(sums), comm::Reduce::kSum);
  rows_ = sums[0];
  most_rows_ = world.all_reduce(most_rows_, comm::Reduce::kMax);
  for (auto sum = sums.begin() + 1; DocumentCounts & c : documents_) {
    c = {*sum, *(sum + 1), *(sum + 2), *(sum + 3)};
    sum += 4;
  }
  for (std::size_t row = 0; row < rows; ++row) {
    std::vector<std::int64_t>& begin = begin_.emplace_back(1, 0);
    const auto first = counts.begin() + static_cast<std::ptrdiff_t>(row * shards);
    std::partial_sum(first, first + corpora_->shards(), std::back_inserter(begin));
  }
}

void Samples::require_samples() const {
  for (std::size_t w = 0; w < names_.size(); ++w) {
    if (weights_[w] > 0.0 && begin_[w].back() == 0) {
      throw Error(
          Exit::kUsage,
          fmt::format("data.task_weights names the task {}, but no sample is of it ({}): leave it "
                      "out{}",
                      names_[w],
                      are_documents() ? "documents " + documents().text()
                                      : "most of a sample's tokens must be",
                      are_documents() ? "" : ", or lower data.seq_len"));
    }
  }
}

std::vector<std::int64_t> Samples::counts() const {
  if (!has_tables()) {
    return corpora_ == nullptr ? std::vector<std::int64_t>() : stream_samples(*corpora_, seq_len_);
  }
  std::vector<std::int64_t> counts;
  if (by_task()) {
    for (std::size_t w = 0; w < names_.size(); ++w) {
      counts.push_back(begin_[w].back());
    }
    return counts;
  }
  for (std::size_t c = 0; c + 1 < first_shard_.size(); ++c) {
    counts.push_back(begin_[0][first_shard_[c + 1]] - begin_[0][first_shard_[c]]);
  }
  return counts;
}

std::int64_t Samples::drawable() const {
  const std::vector<std::int64_t> all = counts();
  std::int64_t sum = 0;
  for (std::size_t g = 0; g < all.size(); ++g) {
    sum += weights_.empty() || weights_[g] > 0.0 ? all[g] : 0;
  }
  return sum;
}

DocumentCounts Samples::documents() const {
  DocumentCounts all;
  for (const DocumentCounts& counts : documents_) {
    all.add(counts);
  }
  return all;
}

std::int64_t Samples::mean_rows() const {
  if (!are_documents()) {
    return seq_len_;
  }
  std::int64_t samples = 0;
  for (const std::vector<std::int64_t>& begin : begin_) {
    samples += begin.back();
  }
  return std::max<std::int64_t>(1, rows_ / std::max<std::int64_t>(1, samples));
}

std::string Samples::tasks_text() const {
  if (!by_task()) {
    return {};
  }
  const double sum = std::accumulate(weights_.begin(), weights_.end(), 0.0);
  std::string text;
  for (std::size_t w = 0; w < weights_.size(); ++w) {
    text += fmt::format("{} {:.1f} % of what is drawn ({} samples), ", names_[w],
                        100.0 * weights_[w] / sum, begin_[w].back());
  }
  return text + fmt::format("{} samples of other tasks are never drawn", begin_.back().back());
}

std::size_t Samples::row_of(std::size_t corpus, std::uint8_t task) const {
  return by_task() ? weight_of_[corpus][task] : 0;
}

// counts: added to, where given.
Samples::ByRow Samples::list(std::size_t shard, std::vector<DocumentCounts>* counts) const {
  ByRow samples(by_task() ? names_.size() + 1 : 1);
  const auto number = static_cast<std::int64_t>(shard);
  const Corpora::Shard& place = corpora_->shard(number);
  if (are_documents()) {
    const ShardUnits found = units_of(corpora_->document_table(number), seq_len_, too_long_);
    for (const Unit& unit : found.units) {
      samples[row_of(place.corpus, unit.task)].push_back(
          {place.begin + unit.begin, unit.tokens, unit.rows});
    }
    if (counts != nullptr) {
      counts->at(place.corpus).add(found.counts);
    }
    return samples;
  }
  const StreamSamples here = stream_samples_of(*corpora_, number, seq_len_);
  std::int64_t begin = here.first * seq_len_;
  for (const std::uint8_t task : tasks_of_samples(*corpora_, number, here, seq_len_)) {
    samples[row_of(place.corpus, task)].push_back({begin, seq_len_ + 1, seq_len_});
    begin += seq_len_;
  }
  return samples;
}

const Samples::ByRow& Samples::listed(std::size_t shard) {
  const auto here = std::find_if(recent_.begin(), recent_.end(),
                                 [shard](const Listed& each) { return each.shard == shard; });
  if (here != recent_.end()) {
    std::rotate(here, here + 1, recent_.end());
  } else {
    Listed& fresh = recent_.emplace_back(Listed{.shard = shard, .samples = list(shard, nullptr)});
    for (const std::vector<Place>& row : fresh.samples) {
      fresh.count += row.size();
    }
    listed_ += fresh.count;
    while (recent_.size() > kListedShards && listed_ > kListedSamples) {
      listed_ -= recent_.front().count;
      recent_.erase(recent_.begin());
    }
  }
  return recent_.back().samples;
}

SampleLocation Samples::at(std::size_t group, std::int64_t number) {
  if (!has_tables()) {
    return {group, number * seq_len_, seq_len_ + 1, seq_len_};
  }
  const std::size_t row = by_task() ? group : 0;
  const std::vector<std::int64_t>& begin = begin_[row];
  const std::int64_t at = by_task() ? number : begin[first_shard_[group]] + number;
  const auto shard = static_cast<std::size_t>(std::upper_bound(begin.begin(), begin.end(), at) -
                                              begin.begin() - 1);
  const Place& place = listed(shard)[row].at(static_cast<std::size_t>(at - begin[shard]));
  return {corpora_->shard(static_cast<std::int64_t>(shard)).corpus, place.begin, place.tokens,
          place.rows};
}

bool Samples::has_target(const SampleLocation& location) {
  const TokenSpan span = corpora_->read(location.corpus, location.begin, location.tokens);
  return std::find(span.target.begin() + 1, span.target.end(), 1) != span.target.end();
}

std::vector<Sample> Samples::read(const SampleLocation& location) {
  const TokenSpan span = corpora_->read(location.corpus, location.begin, location.tokens);
  std::vector<Sample> samples;
  for (std::size_t i = 0; i + 1 < span.token.size(); ++i) {
    const std::int64_t first = span.document_begin[i];
    const std::int64_t position = location.begin + static_cast<std::int64_t>(i) - first;
    const bool ends = are_documents() && span.document_begin[i + 1] != first;
    if (ends || (are_documents() && position >= seq_len_)) {
      continue;  // a document's last token is predicted, never read
    }
    if (samples.empty() || (are_documents() && position == 0)) {
      Sample& fresh = samples.emplace_back();
      fresh.corpus = location.corpus;
      fresh.whole = are_documents();
    }
    Sample& sample = samples.back();
    sample.token.push_back(span.token[i]);
    sample.target.push_back(span.target[i + 1] != 0 ? span.token[i + 1] : -1);
    sample.begin.push_back(are_documents() ? 0
                                           : static_cast<std::int32_t>(std::max<std::int64_t>(
                                                 0, first - location.begin)));
    sample.task.push_back(corpora_->joint_task(location.corpus, span.task[i]));
    sample.document.push_back(span.document[i]);
    sample.position.push_back(position);
    sample.weight.push_back(span.weight[i + 1]);
  }
  return samples;
}

}  // namespace moesaic::data
