#include "support/random_batches.h"

#include "tensor/rng.h"

namespace moesaic::testing {

data::StepBatches random_batches(const config::Config& config, std::int64_t seed) {
  const Rng rng(static_cast<std::uint64_t>(seed), hash_name("tokens"));
  std::uint64_t drawn = 0;
  const auto draw = [&] {
    return static_cast<std::int32_t>(rng.uniform(drawn++) *
                                     static_cast<double>(config.model.vocab_size));
  };
  data::StepBatches batches;
  for (std::int64_t first = 0; first < config.train.batch; first += config.train.micro_batch) {
    data::MicroBatch batch;
    for (std::int64_t t = 0; t < config.train.micro_batch * config.data.seq_len; ++t) {
      const std::int64_t position = t % config.data.seq_len;
      batch.token.push_back(draw());
      batch.target.push_back(draw());
      batch.position.push_back(static_cast<std::int32_t>(position));
      batch.first_key.push_back(static_cast<std::int32_t>(t - position));
      batch.task.push_back(0);
    }
    batches.counted += batch.counted();
    batches.micro_batches.push_back(std::move(batch));
  }
  return batches;
}

}  // namespace moesaic::testing
