// Adapters and masked conversations against PEFT, TRL and transformers (golden/adapters).
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <functional>

#include "backend/transfer.h"
#include "base/json.h"
#include "checkpoint/load_weights.h"
#include "config/validate.h"
#include "files/hdf5/file.h"
#include "files/hdf5/thread.h"
#include "hf/peft.h"
#include "support/golden.h"
#include "train/optimizer.h"
#include "train/step.h"

namespace moesaic::testing {
namespace {

namespace fs = std::filesystem;

fs::path golden() { return MOESAIC_GOLDEN_DIR; }

// A document of its own: every token that `is_target` names is predicted by the one before it.
data::MicroBatch document(std::span<const std::int32_t> tokens,
                          const std::function<bool(std::size_t)>& is_target) {
  data::MicroBatch batch = data::text_batch(tokens, std::ssize(tokens) - 1);
  for (std::size_t i = 0; i < batch.target.size(); ++i) {
    batch.target[i] = is_target(i + 1) ? batch.target[i] : -1;
  }
  return batch;
}

struct File {
  explicit File(const std::string& family) : path(golden() / "adapters" / family / "golden.h5") {}

  std::vector<float> floats(const std::string& name) const {
    return files::hdf5_run([&] { return files::Hdf5File::open(path).read_all<float>(name); });
  }
  std::vector<std::int32_t> integers(const std::string& name) const {
    return files::hdf5_run(
        [&] { return files::Hdf5File::open(path).read_all<std::int32_t>(name); });
  }
  Json names(const std::string& of) const {
    return files::hdf5_run([&] {
      return Json::parse(files::Hdf5File::open(path).string_attribute("/" + of, "names"));
    });
  }
  double attribute(const std::string& name) const {
    return files::hdf5_run([&] { return files::Hdf5File::open(path).double_attribute("/", name); });
  }

  fs::path path;
};

config::Config base_config(checkpoint::ModelSource& source) {
  config::Config config = source.config();
  config.router.aux_loss = 0.0;
  config.run.precision = DType::kF32;
  config.run.threads = 1;
  config.train.clip = 0.0;
  config.train.weight_decay = 0.0;
  return config;
}

using Case = std::pair<std::string, std::string>;

class AdapterGolden : public ::testing::TestWithParam<Case> {
 protected:
  AdapterGolden()
      : file(GetParam().first),
        source(checkpoint::ModelSource::open(golden() / "families" / GetParam().first)),
        config(base_config(source)),
        peft(hf::PeftFolder::open(golden() / "adapters" / GetParam().first / GetParam().second,
                                  *source.folder()->config().family, config.model, config.router)) {
    config.adapter.rank = peft.rank(peft.names().front());
    config.adapter.alpha = peft.alpha(peft.names().front());
    config.adapter.targets.clear();
    for (const std::string& name : peft.names()) {
      config.adapter.targets.push_back(name.substr(0, name.size() - std::string(".weight").size()));
    }
    config::resolve(config, "train");
    instance = std::make_unique<engine::Instance>(config, mesh, engine::Use::kTraining);
    checkpoint::load_parameters(*instance, source, checkpoint::Load::kValues);
    fill();
  }

  // A and B of the folder.
  void fill() {
    for (model::Parameter& p : instance->parameters.all()) {
      std::vector<float> values;
      for (const model::PublicTensor& tensor : p.spec.tensors) {
        const std::string weight = model::adapted_weight(tensor.name);
        if (weight.empty()) {
          break;
        }
        std::vector<float> half(static_cast<std::size_t>(tensor.shape.numel()));
        if (tensor.name == model::lora_a_name(weight)) {
          peft.read_a(weight, {0, tensor.shape[1]}, half);
        } else {
          peft.read_b(weight, {0, tensor.shape[0]}, half);
        }
        values.insert(values.end(), half.begin(), half.end());
      }
      if (!values.empty()) {
        instance->parameters.set(*instance->backend, p, values);
      }
    }
  }

  std::string in_case(const char* name) const { return "/" + GetParam().second + "/" + name; }

  data::MicroBatch batch() const {
    const std::vector<std::int32_t> ids = file.integers(in_case("input_ids"));
    std::vector<data::MicroBatch> rows;
    constexpr std::size_t kLength = 21;
    for (std::size_t begin = 0; begin < ids.size(); begin += kLength) {
      rows.push_back(
          document(std::span(ids).subspan(begin, kLength), [](std::size_t) { return true; }));
    }
    return joined(rows);
  }

  double evaluate() {
    model::Context ctx = instance->context();
    const data::MicroBatch all = batch();
    ctx.batch.step_tokens = all.size();
    train::zero_gradients(*instance);
    const auto counted = static_cast<double>(all.counted());
    return train::forward_backward(*instance, ctx, std::span(&all, 1), train::cross_entropy(),
                                   counted)
               .loss /
           counted;
  }

  File file;
  checkpoint::ModelSource source;
  config::Config config;
  hf::PeftFolder peft;
  comm::Mesh mesh = comm::Mesh::single();
  std::unique_ptr<engine::Instance> instance;
};

// Protects LoRA: loss and gradients of every A and B as PEFT has them, and three AdamW steps.
TEST_P(AdapterGolden, LossGradientsAndSteps) {
  EXPECT_NEAR(evaluate(), file.floats(in_case("loss")).front(), 1e-5);
  const auto gradients = gradients_of(*instance);
  std::vector<float> all;
  for (const Json& name : file.names(GetParam().second)) {
    const auto weight = name.get<std::string>();
    for (const std::string& half : {model::lora_a_name(weight), model::lora_b_name(weight)}) {
      const std::vector<float>& gradient = gradients.at(half);
      all.insert(all.end(), gradient.begin(), gradient.end());
    }
  }
  EXPECT_LT(relative_distance(all, file.floats(in_case("grad"))), 1e-4);
  const std::size_t per_weight = 2;
  EXPECT_EQ(gradients.size(), per_weight * file.names(GetParam().second).size());

  config::Train train = config.train;
  train.beta1 = file.attribute("beta1");
  train.beta2 = file.attribute("beta2");
  train.eps = file.attribute("eps");
  const std::vector<float> losses = file.floats(in_case("losses"));
  train::GradientBuffer buffer(*instance, 0);
  for (std::size_t step = 0; step < losses.size(); ++step) {
    EXPECT_NEAR(evaluate(), losses[step], 1e-5) << "step " << step;
    train::optimizer_step(*instance, buffer, train, file.attribute("lr"),
                          static_cast<std::int64_t>(step) + 1, 0.0);
  }
  EXPECT_NEAR(evaluate(), file.floats(in_case("loss_after")).front(), 1e-5);
}

INSTANTIATE_TEST_SUITE_P(
    All, AdapterGolden,
    ::testing::Values(Case{"mixtral", "attention"}, Case{"mixtral", "experts"},
                      Case{"mixtral", "all"}, Case{"qwen3_moe", "attention"},
                      Case{"qwen3_moe", "experts"}, Case{"deepseek_v3", "attention"},
                      Case{"deepseek_v3", "experts"}, Case{"deepseek_v3", "shared"}),
    [](const auto& test) { return test.param.first + "_" + test.param.second; });

class MergedGolden : public ::testing::TestWithParam<Case> {};

// Protects model.adapter: weights with the adapter added give PEFT's logits, in every form that it
// writes; also where a latent projection is absorbed.
TEST_P(MergedGolden, LogitsAndWeights) {
  const auto& [family, name] = GetParam();
  const File file(family);
  auto merged = checkpoint::ModelSource::open(golden() / "families" / family,
                                              golden() / "adapters" / family / name);
  config::Config config = base_config(merged);
  config::resolve(config, "score");
  const comm::Mesh mesh = comm::Mesh::single();
  engine::Instance instance(config, mesh, engine::Use::kManyRows);
  checkpoint::load_parameters(instance, merged, checkpoint::Load::kValues);
  const std::vector<std::int32_t> ids = file.integers("/" + name + "/input_ids");
  const std::vector<float> expected = file.floats("/" + name + "/logits");
  constexpr std::size_t kLength = 21, kKept = 4;
  const std::size_t vocabulary = expected.size() / (ids.size() / kLength) / kKept;
  std::size_t at = 0;
  for (std::size_t begin = 0; begin < ids.size(); begin += kLength) {
    std::vector<std::int32_t> row(ids.begin() + static_cast<std::ptrdiff_t>(begin),
                                  ids.begin() + static_cast<std::ptrdiff_t>(begin + kLength));
    row.push_back(0);  // so that the last token is read as well
    const data::MicroBatch batch = document(row, [](std::size_t) { return false; });
    model::Context ctx = instance.context();
    ctx.batch.dropless = true;
    model::set_batch(ctx, batch);
    const Tensor hidden = instance.transformer.forward(ctx, 0, {}, nullptr);
    const std::vector<float> logits =
        to_host_f32(*instance.backend, instance.transformer.head().logits(ctx, hidden));
    for (std::size_t i = (kLength - kKept) * vocabulary; i < logits.size(); ++i) {
      ASSERT_NEAR(logits[i], expected[at++], 2e-4);
    }
  }
  EXPECT_EQ(at, expected.size());
}

INSTANTIATE_TEST_SUITE_P(
    All, MergedGolden,
    ::testing::Values(Case{"mixtral", "all"}, Case{"mixtral", "fused"}, Case{"mixtral", "patterns"},
                      Case{"qwen3_moe", "fused"}, Case{"qwen3_moe", "down"},
                      Case{"deepseek_v3", "attention"}, Case{"deepseek_v3", "fused"},
                      Case{"deepseek_v3", "shared"}, Case{"gpt_oss", "attention"},
                      Case{"gpt_oss", "fused"}),
    [](const auto& test) { return test.param.first + "_" + test.param.second; });

class SftGolden : public ::testing::TestWithParam<std::string> {};

// Protects training on conversations: the loss over the targets of two rows of unequal length, and
// gradients, as TRL and transformers have them.
TEST_P(SftGolden, LossAndGradients) {
  const File file(GetParam());
  auto source = checkpoint::ModelSource::open(golden() / "families" / GetParam());
  config::Config config = base_config(source);
  config::resolve(config, "train");
  const comm::Mesh mesh = comm::Mesh::single();
  engine::Instance instance(config, mesh, engine::Use::kTraining);
  checkpoint::load_parameters(instance, source, checkpoint::Load::kValues);
  const std::vector<std::int32_t> tokens = file.integers("/sft/tokens");
  const std::vector<std::int32_t> mask = file.integers("/sft/mask");
  std::vector<data::MicroBatch> rows;
  std::size_t begin = 0;
  for (const std::int32_t length : file.integers("/sft/lengths")) {
    rows.push_back(document(std::span(tokens).subspan(begin, static_cast<std::size_t>(length)),
                            [&](std::size_t i) { return mask[begin + i] != 0; }));
    begin += static_cast<std::size_t>(length);
  }
  model::Context ctx = instance.context();
  double counted = 0.0;
  for (const data::MicroBatch& row : rows) {
    counted += train::cross_entropy().size(row);
    ctx.batch.step_tokens += row.size();
  }
  train::zero_gradients(instance);
  const train::StepOutcome outcome =
      train::forward_backward(instance, ctx, rows, train::cross_entropy(), counted);
  EXPECT_NEAR(outcome.loss / counted, file.floats("/sft/loss").front(), 1e-5);
  const auto gradients = gradients_of(instance);
  std::size_t compared = 0;
  files::hdf5_run([&] {
    const auto opened = files::Hdf5File::open(file.path);
    for (const auto& [name, gradient] : gradients) {
      if (opened.has("/sft/grad/" + name)) {
        ++compared;
        EXPECT_LT(relative_distance(gradient, opened.read_all<float>("/sft/grad/" + name)), 1e-4)
            << name;
      }
    }
  });
  EXPECT_GE(compared, 5U);
}

INSTANTIATE_TEST_SUITE_P(All, SftGolden, ::testing::Values("mixtral", "qwen3_moe", "deepseek_v3"),
                         [](const auto& test) { return test.param; });

}  // namespace
}  // namespace moesaic::testing
