// Every public family of models against Hugging Face transformers: logits, losses, routing, every
// gradient, four AdamW steps and a greedy continuation, of the tiny folders in golden/families
// (MOESAIC_ORACLES=DIR: of the folders there).
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <memory>

#include "backend/transfer.h"
#include "checkpoint/load_weights.h"
#include "checkpoint/model_source.h"
#include "config/compare.h"
#include "config/layers.h"
#include "config/validate.h"
#include "files/hdf5/file.h"
#include "files/hdf5/thread.h"
#include "hf/tensors.h"
#include "model/routing_recorder.h"
#include "support/golden.h"
#include "train/optimizer.h"
#include "train/step.h"

namespace moesaic::testing {
namespace {

namespace fs = std::filesystem;

fs::path families() {
  const char* const given = std::getenv("MOESAIC_ORACLES");
  return given != nullptr ? fs::path(given) : fs::path(MOESAIC_GOLDEN_DIR) / "families";
}

std::vector<std::string> all_families() {
  std::vector<std::string> names;
  for (const fs::directory_entry& entry : fs::directory_iterator(families())) {
    if (fs::exists(entry.path() / "oracle.h5")) {
      names.push_back(entry.path().filename().string());
    }
  }
  std::sort(names.begin(), names.end());
  return names;
}

struct Oracle {
  std::int64_t rows = 0, length = 0, vocabulary = 0;
  std::vector<std::int32_t> tokens;
  std::vector<float> logits;
  double loss = 0.0;
  std::vector<std::int32_t> layers, choices;  // router/layers [M], router/topk_indices [M, BT, K]
  std::vector<float> weights;                 // [M, BT, K]
  std::map<std::string, std::vector<float>> gradients;  // by the files' names
  std::vector<float> adamw;
  float adamw_after = 0.0F;
  std::vector<std::int32_t> prompt, continuation;
  std::vector<float> continuation_logprobs;

  static Oracle read(const fs::path& file) {
    return files::hdf5_run([&] {
      const files::Hdf5File f = files::Hdf5File::open(file);
      Oracle o;
      const files::Extents extents = f.extents("/logits");
      o.rows = extents[0];
      o.length = extents[1];
      o.vocabulary = extents[2];
      o.tokens = f.read_all<std::int32_t>("/input_ids");
      o.logits = f.read_all<float>("/logits");
      o.loss = static_cast<double>(f.read_all<float>("/loss").front());
      o.layers = f.read_all<std::int32_t>("/router/layers");
      o.choices = f.read_all<std::int32_t>("/router/topk_indices");
      o.weights = f.read_all<float>("/router/topk_weights");
      const std::vector<std::string> members = f.members("/");
      const auto has = [&](const char* name) {
        return std::find(members.begin(), members.end(), name) != members.end();
      };
      if (has("grad")) {
        for (const std::string& name : f.members("/grad")) {
          o.gradients[name] = f.read_all<float>("/grad/" + name);
        }
      }
      if (has("adamw")) {
        o.adamw = f.read_all<float>("/adamw/losses");
        o.adamw_after = f.read_all<float>("/adamw/loss_after").front();
      }
      o.prompt = f.read_all<std::int32_t>("/generation/prompt");
      o.continuation = f.read_all<std::int32_t>("/generation/tokens");
      o.continuation_logprobs = f.read_all<float>("/generation/logprobs");
      return o;
    });
  }
};

data::MicroBatch sequence(std::span<const std::int32_t> tokens) {
  return data::text_batch(tokens, std::ssize(tokens));
}

// Tokens [begin, end) of a sequence whose earlier ones are in the cache.
struct Piece {
  std::span<const std::int32_t> tokens;
  std::size_t begin, end;
  std::vector<std::int32_t> pages;
};

data::MicroBatch pieces(const std::vector<Piece>& all) {
  data::MicroBatch batch;
  for (const Piece& piece : all) {
    for (std::size_t t = piece.begin; t < piece.end; ++t) {
      batch.token.push_back(piece.tokens[t]);
      batch.target.push_back(-1);
      batch.position.push_back(static_cast<std::int32_t>(t));
      batch.first_key.push_back(0);
      batch.task.push_back(0);
    }
    batch.runs.add(static_cast<std::int64_t>(piece.end - piece.begin),
                   static_cast<std::int64_t>(piece.begin), piece.pages);
  }
  return batch;
}

class FamilyTest : public ::testing::TestWithParam<std::string> {
 protected:
  FamilyTest() : source(checkpoint::ModelSource::open(families() / GetParam())) {
    config = source.config();
    config.router.aux_loss = 0.0;
    config.run.precision = DType::kF32;
    config.run.threads = 1;
    config.train.clip = 1e9;
    config.train.eps = 1e-8;
    config.train.weight_decay = 0.1;
    config::resolve(config, "train");
    instance = std::make_unique<engine::Instance>(config, mesh, engine::Use::kTraining);
    checkpoint::load_parameters(*instance, source, checkpoint::Load::kValues);
  }

  std::vector<float> logits_of(const data::MicroBatch& batch,
                               std::vector<routing::RoutedRows>* routed,
                               const model::PagedCache* cache = nullptr) {
    model::Context ctx = instance->context();
    if (routed != nullptr) {
      ctx.observers = {model::routing_recorder(*routed)};
    }
    ctx.batch.cache = cache;
    ctx.batch.dropless = true;
    model::set_batch(ctx, batch);
    const Tensor hidden = instance->transformer.forward(ctx, 0, {}, nullptr);
    return to_host_f32(*instance->backend, instance->transformer.head().logits(ctx, hidden));
  }

  data::MicroBatch batch() const {
    std::vector<data::MicroBatch> rows;
    for (std::int64_t r = 0; r < oracle.rows; ++r) {
      rows.push_back(sequence(std::span(oracle.tokens)
                                  .subspan(static_cast<std::size_t>(r * oracle.length),
                                           static_cast<std::size_t>(oracle.length))));
    }
    return joined(rows);
  }

  // The loss at the present parameters, and its gradients.
  double evaluate() {
    model::Context ctx = instance->context();
    const data::MicroBatch all = batch();
    ctx.batch.step_tokens = all.size();
    train::zero_gradients(*instance);
    const auto counted = static_cast<double>(all.counted());
    double sum = 0.0;
    const auto logprob =
        train::forward_backward(*instance, ctx, std::span(&all, 1), train::cross_entropy(), counted)
            .logprob.front();
    for (const float p : logprob) {
      sum -= static_cast<double>(p);
    }
    return sum / counted;
  }

  // The gradient of one of our tensors, from that of the file's which it is a part of.
  std::vector<float> expected_gradient(const hf::HfTensor& tensor) const {
    const std::vector<float>& stored = oracle.gradients.at(tensor.view.tensor);
    std::vector<float> values;
    const std::int64_t columns = tensor.shape.size() > 1 ? tensor.shape[1] : 1;
    for (std::int64_t i = 0; i < tensor.shape[0]; ++i) {
      for (std::int64_t j = 0; j < columns; ++j) {
        const std::int64_t column = tensor.shape.size() > 1 ? j * tensor.view.strides[1] : 0;
        values.push_back(stored[static_cast<std::size_t>(tensor.view.first +
                                                         i * tensor.view.strides[0] + column)]);
      }
    }
    return values;
  }

  Oracle oracle = Oracle::read(families() / GetParam() / "oracle.h5");
  checkpoint::ModelSource source;
  config::Config config;
  comm::Mesh mesh = comm::Mesh::single();
  std::unique_ptr<engine::Instance> instance;
};

TEST_P(FamilyTest, FolderIsWhole) { EXPECT_NO_THROW(source.folder()->check()); }

TEST_P(FamilyTest, LogitsAndLoss) {
  const std::vector<float> logits = logits_of(batch(), nullptr);
  ASSERT_EQ(logits.size(), oracle.logits.size());
  double worst = 0.0;
  for (std::size_t i = 0; i < logits.size(); ++i) {
    worst = std::max(worst, std::abs(static_cast<double>(logits[i] - oracle.logits[i])));
  }
  EXPECT_LT(worst, 2e-4);
  EXPECT_NEAR(evaluate(), oracle.loss, 1e-5);
}

TEST_P(FamilyTest, Routing) {
  std::vector<routing::RoutedRows> routed;
  logits_of(batch(), &routed);
  const std::vector<std::int64_t> layers = config::moe_layers(config.model);
  ASSERT_EQ(layers, std::vector<std::int64_t>(oracle.layers.begin(), oracle.layers.end()));
  const auto k = static_cast<std::size_t>(config.model.top_k);
  const std::size_t of_layer = static_cast<std::size_t>(oracle.rows * oracle.length) * k;
  for (std::size_t layer = 0; layer < layers.size(); ++layer) {
    for (std::size_t begin = 0; begin < of_layer; begin += k) {
      std::map<int, float> expected, actual;
      for (std::size_t c = begin; c < begin + k; ++c) {
        expected[oracle.choices[layer * of_layer + c]] = oracle.weights[layer * of_layer + c];
        actual[routed[layer].chosen[c]] = routed[layer].weight[c];
      }
      for (const auto& [expert, weight] : expected) {
        ASSERT_TRUE(actual.contains(expert)) << "layer " << layers[layer] << " token " << begin / k;
        EXPECT_NEAR(actual[expert], weight, 5e-5);
      }
    }
  }
}

TEST_P(FamilyTest, EveryGradient) {
  if (oracle.gradients.empty()) {
    GTEST_SKIP() << "the oracle has none";
  }
  evaluate();
  const auto gradients = gradients_of(*instance);
  std::size_t compared = 0;
  const hf::HfConfig& theirs = source.folder()->config();
  for (const hf::HfTensor& tensor : hf::hf_tensors(*theirs.family, theirs.model, theirs.router)) {
    if (!oracle.gradients.contains(tensor.view.tensor)) {
      continue;  // not trained, or left out of the oracle
    }
    const double distance = relative_distance(gradients.at(tensor.name), expected_gradient(tensor));
    EXPECT_LT(distance, 1e-3) << tensor.name;
    ++compared;
  }
  EXPECT_GE(compared, oracle.gradients.size());
}

TEST_P(FamilyTest, FourAdamWSteps) {
  if (oracle.adamw.empty()) {
    GTEST_SKIP() << "the oracle has none";
  }
  for (std::size_t step = 0; step < oracle.adamw.size(); ++step) {
    EXPECT_NEAR(evaluate(), static_cast<double>(oracle.adamw[step]), 1e-4) << "step " << step;
    train::optimizer_step(*instance, {*instance, 0}, config.train, 1e-3,
                          static_cast<std::int64_t>(step) + 1,
                          train::gradient_norm(*instance, {*instance, 0}));
  }
  EXPECT_NEAR(evaluate(), static_cast<double>(oracle.adamw_after), 1e-4);
}

// Protects: quantized weights compute about the same in every kind of layer. Some tokens go to
// other experts, which counts for much in models as small as these.
TEST_P(FamilyTest, Quantized) {
  double spread = 0.0;
  for (const float logit : oracle.logits) {
    spread += std::abs(static_cast<double>(logit));
  }
  for (const auto& [quantize, bound] :
       {std::pair(DType::kInt8, 0.1), std::pair(DType::kInt4, 0.6)}) {
    config.run.quantize = quantize;
    instance = std::make_unique<engine::Instance>(config, mesh, engine::Use::kManyRows);
    checkpoint::load_parameters(*instance, source, checkpoint::Load::kValues);
    const std::vector<float> logits = logits_of(batch(), nullptr);
    double distance = 0.0;
    for (std::size_t i = 0; i < logits.size(); ++i) {
      distance += std::abs(static_cast<double>(logits[i] - oracle.logits[i]));
    }
    EXPECT_LT(distance, bound * spread);
    EXPECT_GT(distance, 0.0);
  }
}

TEST_P(FamilyTest, GreedyContinuation) {
  std::vector<std::int32_t> tokens = oracle.prompt;
  for (const std::int32_t expected : oracle.continuation) {
    const std::vector<float> logits = logits_of(sequence(tokens), nullptr);
    const auto last = logits.end() - static_cast<std::ptrdiff_t>(oracle.vocabulary);
    const auto best = static_cast<std::int32_t>(std::max_element(last, logits.end()) - last);
    ASSERT_EQ(best, expected) << "after " << tokens.size() << " tokens";
    tokens.push_back(best);
  }
}

// With keys and values kept: the prompt in two pieces, then token by token.
TEST_P(FamilyTest, CachedGreedyContinuation) {
  const model::PagedCache cache = instance->transformer.make_cache(instance->context(), 2);
  std::vector<std::int32_t> tokens = oracle.prompt;
  std::size_t done = tokens.size() / 2;
  logits_of(pieces({{tokens, 0, done, {1, 0}}}), nullptr, &cache);
  for (std::size_t i = 0; i < oracle.continuation.size(); ++i) {
    const std::vector<float> logits =
        logits_of(pieces({{tokens, done, tokens.size(), {1, 0}}}), nullptr, &cache);
    done = tokens.size();
    const auto last = logits.end() - static_cast<std::ptrdiff_t>(oracle.vocabulary);
    const auto best = std::max_element(last, logits.end());
    double sum = 0.0;
    for (auto logit = last; logit != logits.end(); ++logit) {
      sum += std::exp(static_cast<double>(*logit - *best));
    }
    ASSERT_EQ(best - last, oracle.continuation[i]) << "after " << tokens.size() << " tokens";
    EXPECT_NEAR(-std::log(sum), static_cast<double>(oracle.continuation_logprobs[i]), 1e-3);
    tokens.push_back(static_cast<std::int32_t>(best - last));
  }
}

// Pieces over the borders of pages, of two sequences at once: as if each had been read whole.
TEST_P(FamilyTest, CacheChangesNoLogit) {
  std::vector<std::int32_t> a, b;
  for (std::int32_t i = 0; i < 150; ++i) {
    a.push_back((7 * i + i * i / 3) % static_cast<std::int32_t>(oracle.vocabulary));
    b.push_back((5 * i + 11 + i * i / 7) % static_cast<std::int32_t>(oracle.vocabulary));
  }
  const model::PagedCache cache = instance->transformer.make_cache(instance->context(), 7);
  const std::vector<std::int32_t> pages_a = {4, 1, 6}, pages_b = {0, 5, 3};
  const auto width = static_cast<std::size_t>(oracle.vocabulary);
  const std::vector<float> whole_a = logits_of(sequence(a), nullptr);
  const std::vector<float> whole_b = logits_of(sequence(b), nullptr);
  const auto compare = [&](const std::vector<Piece>& all) {
    const std::vector<float> logits = logits_of(pieces(all), nullptr, &cache);
    std::size_t at = 0;
    for (const Piece& piece : all) {
      const std::vector<float>& whole = piece.tokens.data() == a.data() ? whole_a : whole_b;
      for (std::size_t i = piece.begin * width; i < piece.end * width; ++i, ++at) {
        ASSERT_NEAR(logits[at], whole[i], 2e-4) << "token " << i / width;
      }
    }
  };
  compare({{a, 0, 60, pages_a}});
  compare({{b, 0, 64, pages_b}, {a, 60, 61, pages_a}});
  compare({{a, 61, 130, pages_a}, {b, 64, 65, pages_b}});
  compare({{b, 65, 150, pages_b}, {a, 130, 149, pages_a}});
  compare({{a, 149, 150, pages_a}});
}

INSTANTIATE_TEST_SUITE_P(All, FamilyTest, ::testing::ValuesIn(all_families()),
                         [](const auto& test) { return test.param; });

}  // namespace
}  // namespace moesaic::testing
