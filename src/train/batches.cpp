#include "train/batches.h"

#include "io/hdf5_thread.h"

namespace moesaic::train {

Batches::Batches(Corpora& corpora, TaskIndex& tasks, const config::Config& config,
                 const comm::Communicator& replicas, std::int64_t cursor)
    : corpora_(corpora),
      tasks_(tasks),
      order_(tasks.empty()
                 ? SampleOrder(corpora.samples(), config.data.corpus_weights, config.data.seed)
                 : SampleOrder(tasks.samples(), tasks.weights(), config.data.seed)),
      batch_(config.train.batch),
      micro_batch_(config.train.micro_batch),
      cursor_(cursor),
      replica_(replicas.rank()),
      replicas_(replicas.size()) {
  prefetch();
}

Batches::~Batches() {
  if (ready_.valid()) {
    ready_.wait();  // the work on the HDF5 thread refers to this object
  }
}

void Batches::prefetch() {
  ready_ = io::hdf5_async([this, cursor = cursor_] { return read(cursor); });
}

StepBatches Batches::next() {
  StepBatches batches = ready_.get();
  cursor_ += batch_;
  prefetch();
  return batches;
}

SamplePlace Batches::place(std::int64_t sample) {
  const SampleDraw draw = order_.at(sample);
  return tasks_.empty() ? SamplePlace{draw.group, draw.index} : tasks_.at(draw.group, draw.index);
}

StepBatches Batches::read(std::int64_t cursor) {
  const std::int64_t count = batch_ / micro_batch_;
  StepBatches step;
  for (std::int64_t first = 0; first < count; first += replicas_) {
    std::vector<Sample> samples;
    const std::int64_t mine = first + replica_;
    for (std::int64_t i = 0; mine < count && i < micro_batch_; ++i) {
      samples.push_back(corpora_.read(place(cursor + mine * micro_batch_ + i)));
    }
    step.rounds.push_back(micro_batch_of(samples));
    step.counted += step.rounds.back().counted();
  }
  return step;
}

}  // namespace moesaic::train
