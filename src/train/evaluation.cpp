#include "train/evaluation.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <numbers>
#include <numeric>

#include "engine/pipeline.h"
#include "files/hdf5/thread.h"

namespace moesaic::train {
namespace {

// Sums of -log p and counts of targets, for each task and corpus.
class LossSums {
 public:
  LossSums(std::size_t tasks, std::size_t corpora)
      : tasks_(tasks), values_(2 * (tasks + corpora), 0.0) {}

  void add(std::size_t task, std::size_t corpus, double nats) {
    for (const std::size_t group : {task, tasks_ + corpus}) {
      values_[2 * group] += nats;
      values_[2 * group + 1] += 1.0;
    }
  }
  std::span<double> all() { return values_; }
  double nats(std::size_t group) const { return values_[2 * group]; }
  double count(std::size_t group) const { return values_[2 * group + 1]; }
  double mean(std::size_t group) const { return nats(group) / count(group); }  // NaN: nothing

 private:
  std::size_t tasks_;
  std::vector<double> values_;
};

std::vector<data::Sample> read_samples(data::Samples& samples, const EvaluationSamples& chosen,
                                       std::int64_t begin, std::int64_t end) {
  return files::hdf5_run([&] {
    std::vector<data::Sample> all;
    for (std::int64_t number = begin; number < end; ++number) {
      const data::SampleDraw draw = chosen.at(number);
      std::vector<data::Sample> read = samples.read(samples.at(draw.group, draw.index));
      std::move(read.begin(), read.end(), std::back_inserter(all));
    }
    return all;
  });
}

// batch: the rows of it that this rank has.
void add_losses(LossSums& sums, const data::MicroBatch& batch,
                std::span<const data::Sample> samples, std::span<const float> logprob) {
  for (std::size_t t = 0; t < logprob.size(); ++t) {
    if (batch.target[t] >= 0) {
      const auto sample = static_cast<std::size_t>(batch.sample[t]);
      sums.add(batch.task[t], samples[sample].corpus, -static_cast<double>(logprob[t]));
    }
  }
}

// A text's bits: nats of its tokens, scaled from the targets that were counted to all its bytes.
double bits_per_byte(const data::Corpora& corpora, const LossSums& sums, std::size_t tasks) {
  double bits = 0.0;
  double bytes = 0.0;
  for (std::size_t c = 0; c < corpora.size(); ++c) {
    const data::CorpusInfo& info = corpora.info(c);
    const double count = sums.count(tasks + c);
    if (count > 0.0 && info.source_bytes > 0) {
      bits += sums.nats(tasks + c) / std::numbers::ln2;
      bytes += count * static_cast<double>(info.source_bytes) / static_cast<double>(info.tokens);
    }
  }
  return bits / bytes;
}

}  // namespace

EvaluationSamples::EvaluationSamples(const data::Samples& samples, const config::Config& config)
    : counts_(samples.counts()), begin_({0}) {
  const std::int64_t total = std::accumulate(counts_.begin(), counts_.end(), std::int64_t{0});
  const std::int64_t wanted = config.eval.tokens / samples.mean_rows();
  const bool all = config.eval.tokens == 0 || wanted >= total;
  for (const std::int64_t count : counts_) {
    const std::int64_t n =
        all ? count : std::min(count, std::max<std::int64_t>(1, wanted * count / total));
    begin_.push_back(begin_.back() + n);
  }
}

data::SampleDraw EvaluationSamples::at(std::int64_t number) const {
  const auto corpus = static_cast<std::size_t>(
      std::upper_bound(begin_.begin(), begin_.end(), number) - begin_.begin() - 1);
  const std::int64_t n = begin_[corpus + 1] - begin_[corpus];
  return {corpus, (number - begin_[corpus]) * counts_[corpus] / n};
}

std::optional<record::EvalRow> evaluate(engine::Instance& instance, const data::Corpora& corpora,
                                        data::Samples& samples, const config::Config& config,
                                        std::size_t tasks, std::int64_t step,
                                        const std::function<bool()>& go_on) {
  const PhaseScope phase(instance.clock, Phase::kEval);
  PhaseClock inner_clock;  // what the layers book here is all evaluation
  model::Context ctx = instance.context(inner_clock);
  ctx.batch.dropless = !config.router.eval_capacity;
  LossSums sums(tasks, corpora.size());
  const EvaluationSamples chosen(samples, config);
  const std::int64_t micro_batch = config.train.micro_batch;
  const std::int64_t replicas = instance.mesh[comm::Group::kBatches].size();
  const std::int64_t replica = instance.mesh[comm::Group::kBatches].rank();
  const std::int64_t in_flight = instance.mesh[comm::Group::kPp].size();
  for (std::int64_t first = 0; first < chosen.size(); first += micro_batch * replicas * in_flight) {
    std::vector<std::vector<data::Sample>> read;
    std::vector<data::MicroBatch> batches;
    for (std::int64_t i = 0; i < in_flight; ++i) {
      const std::int64_t begin =
          std::min(chosen.size(), first + (i * replicas + replica) * micro_batch);
      const std::int64_t end = std::min(chosen.size(), begin + micro_batch);
      read.push_back(read_samples(samples, chosen, begin, end));
      batches.push_back(data::micro_batch_of(read.back()));
    }
    engine::forward_all(instance, ctx, batches, [&](std::size_t i, const Tensor& hidden) {
      const auto logprob = instance.transformer.head().log_probs(ctx, hidden).logprob;
      if (instance.mesh.reports()) {
        add_losses(sums, *ctx.batch.host, read[i], logprob);
      }
    });
    if (!go_on()) {
      return std::nullopt;
    }
  }
  instance.mesh.world.all_reduce(sums.all(), comm::Reduce::kSum);

  record::EvalRow row{.step = step, .loss_by_task = {}, .loss_by_corpus = {}};
  double nats = 0.0;
  double count = 0.0;
  for (std::size_t task = 0; task < tasks; ++task) {
    row.loss_by_task.push_back(sums.mean(task));
    nats += sums.nats(task);
    count += sums.count(task);
  }
  for (std::size_t c = 0; c < corpora.size(); ++c) {
    row.loss_by_corpus.push_back(sums.mean(tasks + c));
  }
  row.loss = nats / count;
  row.bits_per_byte = bits_per_byte(corpora, sums, tasks);
  return row;
}

}  // namespace moesaic::train
