#include "data/task_index.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "base/error.h"
#include "base/text.h"
#include "files/hdf5/thread.h"

namespace moesaic::data {
namespace {

constexpr std::size_t kListedShards = 8;  // as many as a corpus holds open

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

TaskIndex TaskIndex::make(Corpora& corpora, const std::vector<config::NamedWeight>& weights,
                          const comm::Communicator& world) {
  TaskIndex index;
  if (weights.empty()) {
    return index;
  }
  index.corpora_ = &corpora;
  index.shards_ = corpora.shard_samples();
  const std::size_t shards = index.shards_.size();
  std::vector<std::int64_t> counts((weights.size() + 1) * shards, 0);
  world.together("count the samples of each task", [&] {
    index.set_weights(weights);
    const auto stride = static_cast<std::size_t>(world.size());
    for (auto s = static_cast<std::size_t>(world.rank()); s < shards; s += stride) {
      const ByWeight samples = files::hdf5_run([&] { return index.list(s); });
      for (std::size_t w = 0; w < samples.size(); ++w) {
        counts[w * shards + s] = std::ssize(samples[w]);
      }
    }
  });
  world.all_reduce(std::span(counts), comm::Reduce::kSum);
  for (auto count = counts.begin(); count != counts.end(); count += std::ssize(index.shards_)) {
    std::vector<std::int64_t>& begin = index.begin_.emplace_back(1, 0);
    std::partial_sum(count, count + std::ssize(index.shards_), std::back_inserter(begin));
  }
  world.together("find samples of each task", [&] { index.require_samples(); });
  return index;
}

void TaskIndex::set_weights(const std::vector<config::NamedWeight>& weights) {
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

void TaskIndex::require_samples() const {
  for (std::size_t w = 0; w < weights_.size(); ++w) {
    if (weights_[w] > 0.0 && begin_[w].back() == 0) {
      throw Error(
          Exit::kUsage,
          fmt::format("data.task_weights names the task {}, but no sample is of it (most of "
                      "a sample's tokens must be): leave it out, or lower data.seq_len",
                      names_[w]));
    }
  }
}

std::vector<std::int64_t> TaskIndex::samples() const {
  std::vector<std::int64_t> counts;
  for (std::size_t w = 0; w < weights_.size(); ++w) {
    counts.push_back(begin_[w].back());
  }
  return counts;
}

std::string TaskIndex::text() const {
  const double sum = std::accumulate(weights_.begin(), weights_.end(), 0.0);
  std::string text;
  for (std::size_t w = 0; w < weights_.size(); ++w) {
    text += fmt::format("{} {:.1f} % of what is drawn ({} samples), ", names_[w],
                        100.0 * weights_[w] / sum, begin_[w].back());
  }
  return text + fmt::format("{} samples of other tasks are never drawn", begin_.back().back());
}

TaskIndex::ByWeight TaskIndex::list(std::size_t shard) const {
  ByWeight samples(weights_.size() + 1);
  std::int64_t sample = shards_[shard].first;
  const std::vector<std::size_t>& weight_of = weight_of_[shards_[shard].corpus];
  for (const std::uint8_t task : corpora_->sample_tasks(shards_[shard])) {
    samples[weight_of[task]].push_back(sample++);
  }
  return samples;
}

const TaskIndex::ByWeight& TaskIndex::listed(std::size_t shard) {
  const auto here = std::find_if(recent_.begin(), recent_.end(),
                                 [shard](const Listed& each) { return each.shard == shard; });
  if (here != recent_.end()) {
    std::rotate(here, here + 1, recent_.end());
  } else {
    Listed fresh{.shard = shard, .samples = list(shard)};
    if (recent_.size() == kListedShards) {
      recent_.erase(recent_.begin());
    }
    recent_.push_back(std::move(fresh));
  }
  return recent_.back().samples;
}

SampleLocation TaskIndex::at(std::size_t w, std::int64_t k) {
  const std::vector<std::int64_t>& begin = begin_[w];
  const auto shard =
      static_cast<std::size_t>(std::upper_bound(begin.begin(), begin.end(), k) - begin.begin() - 1);
  const std::vector<std::int64_t>& samples = listed(shard)[w];
  return {shards_[shard].corpus, samples.at(static_cast<std::size_t>(k - begin[shard]))};
}

}  // namespace moesaic::data
