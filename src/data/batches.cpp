#include "data/batches.h"

namespace moesaic::data {

Batches::Batches(Corpora& corpora, TaskIndex& tasks, const config::Config& config,
                 const comm::Communicator& replicas, std::int64_t cursor)
    : corpora_(corpora),
      tasks_(tasks),
      order_(tasks.empty()
                 ? SampleOrder(corpora.samples(), config.data.corpus_weights, config.data.seed)
                 : SampleOrder(tasks.samples(), tasks.weights(), config.data.seed)),
      skipped_(config.data.skip_samples),
      batch_(config.train.batch),
      micro_batch_(config.train.micro_batch),
      seq_len_(config.data.seq_len),
      cursor_(cursor),
      keep_tokens_(!config.trace.routing.empty()),
      replica_(replicas.rank()),
      replicas_(replicas.size()) {
  prefetch();
}

void Batches::prefetch() {
  ready_.start([this, samples = next_samples(cursor_, batch_, skipped_)] { return read(samples); });
}

StepBatches Batches::next() {
  StepBatches batches = ready_.get();
  cursor_ = batches.samples.back().end;
  prefetch();
  return batches;
}

SampleLocation Batches::location_of(std::int64_t sample) {
  const SampleDraw draw = order_.at(sample);
  return tasks_.empty() ? SampleLocation{draw.group, draw.index}
                        : tasks_.at(draw.group, draw.index);
}

StepBatches Batches::read(const SampleRanges& ranges) {
  std::vector<std::int64_t> numbers;  // [batch]
  for (const config::SampleRange& range : ranges) {
    for (std::int64_t n = range.first; n < range.end; ++n) {
      numbers.push_back(n);
    }
  }
  const std::int64_t count = batch_ / micro_batch_;
  StepBatches step;
  step.samples = ranges;
  for (std::int64_t first = 0; first < count; first += replicas_) {
    std::vector<Sample> samples;
    const std::int64_t mine = first + replica_;
    for (std::int64_t i = 0; mine < count && i < micro_batch_; ++i) {
      const auto at = static_cast<std::size_t>(mine * micro_batch_ + i);
      samples.push_back(corpora_.read(location_of(numbers[at])));
    }
    step.micro_batches.push_back(micro_batch_of(samples));
    step.micro_batches.back().first = mine * micro_batch_ * seq_len_;
    if (keep_tokens_) {
      step.tokens.push_back(token_rows_of(samples, step.micro_batches.back().first));
    }
    step.counted += step.micro_batches.back().counted();
  }
  return step;
}

}  // namespace moesaic::data
