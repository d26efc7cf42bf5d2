#include "data/batches.h"

#include <iterator>

#include "data/units.h"

namespace moesaic::data {

Batches::Batches(Samples& samples, const config::Config& config, const comm::Communicator& replicas,
                 std::int64_t cursor)
    : samples_(samples),
      order_(samples.counts(), samples.weights(), config.data.seed),
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

SampleLocation Batches::location_of(std::int64_t number) {
  const SampleDraw draw = order_.at(number);
  return samples_.at(draw.group, draw.index);
}

// Pieces of a stream: micro-batch after micro-batch, those of this replica.
std::vector<Batches::Part> Batches::parts_of_stream(const std::vector<std::int64_t>& numbers) {
  std::vector<Part> parts(numbers.size() / static_cast<std::size_t>(micro_batch_));
  for (std::int64_t m = 0; m < std::ssize(parts); ++m) {
    Part& part = parts[static_cast<std::size_t>(m)];
    part.first_row = m * micro_batch_ * seq_len_;
    for (std::int64_t i = 0; m % replicas_ == replica_ && i < micro_batch_; ++i) {
      part.samples.push_back(location_of(numbers[static_cast<std::size_t>(m * micro_batch_ + i)]));
    }
  }
  return parts;
}

// Whole documents: how they are dealt is a function of the step's units, so all are located.
std::vector<Batches::Part> Batches::parts_of_units(const std::vector<std::int64_t>& numbers) {
  std::vector<SampleLocation> units;
  std::vector<std::int64_t> rows;
  for (const std::int64_t number : numbers) {
    units.push_back(location_of(number));
    rows.push_back(units.back().rows);
  }
  std::vector<Part> parts;
  std::int64_t first_row = 0;
  for (const std::vector<std::size_t>& dealt : deal(rows, micro_batch_)) {
    Part& part = parts.emplace_back();
    part.first_row = first_row;
    for (const std::size_t unit : dealt) {
      part.samples.push_back(units[unit]);
      first_row += rows[unit];
    }
  }
  return parts;
}

StepBatches Batches::read(const SampleRanges& ranges) {
  std::vector<std::int64_t> numbers;  // [batch]
  for (const config::SampleRange& range : ranges) {
    for (std::int64_t n = range.first; n < range.end; ++n) {
      numbers.push_back(n);
    }
  }
  const std::vector<Part> parts =
      samples_.are_documents() ? parts_of_units(numbers) : parts_of_stream(numbers);
  StepBatches step;
  step.samples = ranges;
  for (std::int64_t first = 0; first < std::ssize(parts); first += replicas_) {
    const std::int64_t mine = first + replica_;
    const Part part = mine < std::ssize(parts) ? parts[static_cast<std::size_t>(mine)] : Part{};
    std::vector<Sample> samples;
    for (const SampleLocation& location : part.samples) {
      std::vector<Sample> read = samples_.read(location);
      std::move(read.begin(), read.end(), std::back_inserter(samples));
    }
    MicroBatch& batch = step.micro_batches.emplace_back(micro_batch_of(samples));
    batch.first = part.first_row;
    if (keep_tokens_) {
      step.tokens.push_back(token_rows_of(samples, batch.first));
    }
    step.counted += batch.counted();
  }
  return step;
}

}  // namespace moesaic::data
