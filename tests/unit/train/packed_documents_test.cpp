// A document that shares a micro-batch with others is trained on as if it were alone.
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "config/validate.h"
#include "data/sample.h"
#include "tensor/rng.h"
#include "train/step.h"

namespace moesaic::testing {
namespace {

config::Config small_config(DType precision) {
  config::Config c;
  c.model.layers = 3;
  c.model.d_model = 48;
  c.model.heads = 4;
  c.model.kv_heads = 2;
  c.model.vocab_size = 67;
  c.model.max_seq = 256;
  c.model.experts = 5;
  c.model.expert_d_ff = 24;
  c.model.dense_layers = 1;
  c.data.seq_len = 256;
  c.train.steps = 1;
  c.run.precision = precision;
  c.run.threads = 2;
  c.run.deterministic = true;
  config::resolve(c, "train");
  return c;
}

data::Sample document(std::size_t rows, std::uint64_t number) {
  const Rng rng(7, number);
  const auto draw = [&](std::size_t i) { return static_cast<std::int32_t>(rng.uniform(i) * 67.0); };
  data::Sample sample;
  sample.whole = true;
  for (std::size_t i = 0; i < rows; ++i) {
    sample.token.push_back(draw(i));
    sample.target.push_back(i % 5 == 2 ? -1 : draw(i + 1));
    sample.begin.push_back(0);
    sample.task.push_back(0);
    sample.weight.push_back(1.0F);
  }
  return sample;
}

class PackedDocuments : public ::testing::TestWithParam<DType> {};

// Protects, bit for bit: lengths on both sides of every tile of attention, wherever a document
// begins in the micro-batch.
TEST_P(PackedDocuments, LogProbabilitiesAreThoseOfEachAlone) {
  const config::Config config = small_config(GetParam());
  const comm::Mesh mesh = comm::Mesh::single();
  engine::Instance instance(config, mesh, engine::Use::kTraining);
  instance.parameters.initialise(*instance.backend, 1);
  const auto log_probs = [&](const std::vector<data::Sample>& samples) {
    const std::vector<data::MicroBatch> batches = {data::micro_batch_of(samples)};
    return train::forward_backward(instance, instance.context(), batches, train::cross_entropy(),
                                   1.0)
        .logprob.at(0);
  };
  std::vector<data::Sample> documents;
  std::vector<float> alone;
  for (const std::size_t rows : {1, 17, 130, 2, 64, 65, 63, 16, 255, 5}) {
    documents.push_back(document(rows, rows));
    const std::vector<float> own = log_probs({documents.back()});
    alone.insert(alone.end(), own.begin(), own.end());
  }
  const std::vector<float> packed = log_probs(documents);
  ASSERT_EQ(packed.size(), alone.size());
  EXPECT_EQ(packed, alone);
  EXPECT_LT(packed.at(0), -1.0F);
  EXPECT_TRUE(std::isfinite(packed.at(0)));
}

INSTANTIATE_TEST_SUITE_P(Precisions, PackedDocuments, ::testing::Values(DType::kF32, DType::kBf16),
                         [](const auto& each) { return std::string(name_of(each.param)); });

}  // namespace
}  // namespace moesaic::testing
