#include "cli/convert.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>

#include "base/error.h"
#include "base/log.h"
#include "base/text.h"
#include "cli/checkpoint_model.h"
#include "cli/facts.h"
#include "cli/threads.h"
#include "config/compare.h"
#include "config/validate.h"
#include "io/checkpoint_manifest.h"
#include "io/files.h"
#include "io/tokenizer.h"
#include "model/pipeline.h"
#include "model/storage.h"
#include "train/resume.h"

namespace moesaic::cli {
namespace {

namespace fs = std::filesystem;

struct Inputs {
  config::Config config;  // of the model, on the ranks of this job
  fs::path source, out;
  bool to_folder = false;
  io::HfFamily family = io::HfFamily::kMixtral;  // of the folder that is read or written
  std::string text;
};

bool wants_folder(const config::ConvertJob& job, io::ModelSource& source) {
  const bool from_folder = source.folder() != nullptr;
  if (job.to == config::ConvertTo::kAuto) {
    return !from_folder;
  }
  const bool to_folder = job.to == config::ConvertTo::kHf;
  if (!from_folder && !to_folder) {
    throw Error(Exit::kUsage,
                fmt::format("{} is a checkpoint of moesaic already", source.path().string()));
  }
  return to_folder;
}

// Experts that came or went have numbers that no other program knows.
void check_pool(const io::ModelSource& source) {
  for (const std::string& pool : source.pool()) {
    if (pool.find_first_not_of('r') != std::string::npos || pool != source.pool().front()) {
      throw Error(Exit::kUsage,
                  fmt::format("{}: a layer has spare or retired experts ({}), which Hugging Face "
                              "folders cannot hold",
                              source.path().string(), pool));
    }
  }
}

// All keys of a model, as a folder needs them.
io::HfKeys keys_of(const config::Config& config) {
  io::HfKeys keys;
  for (const auto& [key, value] : config::flatten(config)) {
    if (key.starts_with("model.") || key.starts_with("router.")) {
      keys[key] = value;
    }
  }
  return keys;
}

Inputs read_inputs(config::Parsed parsed, int ranks) {
  if (parsed.arguments.size() != 2) {
    throw Error(Exit::kUsage, "convert takes two arguments: moesaic convert IN OUT");
  }
  parsed.config.model.path = parsed.arguments[0];
  auto source = io::ModelSource::open(parsed.arguments[0]);
  Inputs inputs{.config = config::checked(adopt_model(parsed), ranks),
                .source = source.path(),
                .out = parsed.arguments[1],
                .to_folder = wants_folder(parsed.config.convert, source),
                .text = source.text()};
  inputs.config.model.path.clear();
  adopt_pool(source, inputs.config);
  adopt_tasks(source.tasks(), inputs.config);
  if (source.folder() != nullptr) {
    inputs.family = source.folder()->config().family;
  } else {
    check_pool(source);
    if (!source.pool().empty()) {
      inputs.config.model.experts = std::ssize(source.pool().front());
    }
    inputs.family = io::family_for(keys_of(inputs.config));
  }
  const fs::path made =
      inputs.to_folder ? inputs.out / "config.json" : io::checkpoint_folder(inputs.out, 0);
  if (fs::exists(made)) {
    throw Error(Exit::kCannotCreate, fmt::format("{} exists: name another folder", made.string()));
  }
  return inputs;
}

std::vector<std::int64_t> zeros_like(const std::vector<std::int64_t>& shape) {
  return std::vector<std::int64_t>(shape.size(), 0);
}

// The tokenizer that lies beside a model; empty: none.
std::optional<io::Tokenizer> tokenizer_of(const fs::path& folder) {
  for (const char* const name : {"tokenizer.json", "tokenizer.model"}) {
    if (fs::exists(folder / name)) {
      return io::Tokenizer::load(folder);
    }
  }
  return std::nullopt;
}

/// A checkpoint of step 0, as if training had begun with these weights. Collective over world.
fs::path write_checkpoint(const Inputs& inputs, const comm::Communicator& world) {
  auto source = io::ModelSource::open(inputs.source);
  const auto tokenizer = tokenizer_of(inputs.source);
  const fs::path copy = inputs.out / (tokenizer ? tokenizer->file_name() : "");
  world.together("write the tokenizer", [&] {
    if (world.is_root() && tokenizer) {
      io::make_folder(inputs.out);
      io::write_whole(copy, tokenizer->model());
    }
  });
  std::vector<io::BlockToSave> blocks;
  std::int64_t number = 0;
  for (const std::string& name : source.names()) {
    if (number++ % world.size() != world.rank()) {
      continue;
    }
    const std::vector<std::int64_t> shape = *source.shape(name);
    blocks.push_back({.name = name,
                      .shape = shape,
                      .offset = zeros_like(shape),
                      .extent = shape,
                      .values = [&source, name, shape] {
                        std::vector<float> values(static_cast<std::size_t>(io::volume(shape)));
                        source.read(name, zeros_like(shape), shape, values);
                        return values;
                      }});
  }
  nlohmann::json state =
      train::to_state({}, inputs.config, "", tokenizer ? tokenizer->sha256() : "");
  state["end_tokens"] = source.end_tokens();
  std::vector<fs::path> files;
  if (tokenizer) {
    files.push_back(copy);
  }
  fs::path saved = io::save_checkpoint(
      {.dir = inputs.out, .step = 0, .state = state, .copy = files}, blocks, world);
  if (world.is_root() && tokenizer) {
    fs::remove(copy);
  }
  return saved;
}

io::StoredType stored_type(config::StoredAs dtype) {
  switch (dtype) {
    case config::StoredAs::kFp32:
      return io::StoredType::kF32;
    case config::StoredAs::kFp16:
      return io::StoredType::kF16;
    case config::StoredAs::kBf16:
      break;
  }
  return io::StoredType::kBF16;
}

/// Collective over world.
void write_folder(const Inputs& inputs, const comm::Communicator& world) {
  auto source = io::ModelSource::open(inputs.source);
  io::write_hf_folder(
      {.folder = inputs.out,
       .family = inputs.family,
       .keys = source.folder() != nullptr ? source.keys() : keys_of(inputs.config),
       .type = stored_type(inputs.config.convert.dtype),
       .copy = io::companion_files(inputs.source),
       .end_tokens = source.end_tokens()},
      [&](const std::string& name, const std::vector<std::int64_t>& offset,
          const std::vector<std::int64_t>& extent,
          std::span<float> values) { source.read(name, offset, extent, values); },
      world);
}

// As many tokens as a short sentence has, spread over the vocabulary.
model::MicroBatch probe(const config::Config& config) {
  const std::int64_t length = std::min<std::int64_t>(48, config.model.max_seq);
  model::MicroBatch batch;
  for (std::int64_t t = 0; t < length; ++t) {
    const auto id = [&](std::int64_t i) {
      return static_cast<std::int32_t>((7919 * (i + 1)) % config.model.vocab_size);
    };
    batch.token.push_back(id(t));
    batch.target.push_back(t + 1 < length ? id(t + 1) : -1);
    batch.position.push_back(static_cast<std::int32_t>(t));
    batch.first_key.push_back(0);
    batch.task.push_back(0);
  }
  return batch;
}

/// Log-probabilities of the probe; on the last stage. Collective over the mesh.
std::vector<float> compute(const Inputs& inputs, const fs::path& path, const comm::Mesh& mesh,
                           comm::Watchdog& watchdog) {
  model::Instance instance(inputs.config, mesh, false);
  auto source = io::ModelSource::open(path);
  model::load_parameters(instance, source, model::Load::kValues,
                         [&] { watchdog.doing("loading"); });
  model::Context ctx = instance.context();
  ctx.dropless = true;
  const model::MicroBatch batch = probe(inputs.config);
  std::vector<float> result;
  model::forward_all(instance, ctx, std::span(&batch, 1), [&](std::size_t, const Tensor& hidden) {
    result = instance.transformer.head().log_probs(ctx, hidden).logprob;
  });
  return result;
}

/// Throws kMismatch if the two models do not compute the same, as far as the stored type lets them.
/// Collective over the mesh.
void compare(const Inputs& inputs, const fs::path& made, const comm::Mesh& mesh,
             comm::Watchdog& watchdog) {
  const std::vector<float> was = compute(inputs, inputs.source, mesh, watchdog);
  const std::vector<float> is = compute(inputs, made, mesh, watchdog);
  std::vector<double> sums(2, 0.0);  // of differences, and their number
  for (std::size_t i = 0; i < was.size(); ++i) {
    sums[0] += std::abs(static_cast<double>(was[i]) - static_cast<double>(is[i]));
    sums[1] += 1.0;
  }
  mesh.world.all_reduce(std::span(sums), comm::Reduce::kSum);
  const double mean = sums[0] / std::max(1.0, sums[1]);
  const bool exact = !inputs.to_folder || inputs.config.convert.dtype == config::StoredAs::kFp32;
  const double bound = exact ? 1e-6 : 0.1;
  log::print(fmt::format("check: log-probabilities of {} tokens differ by {:.2g} nats on average",
                         probe(inputs.config).counted(), mean));
  if (!(mean <= bound)) {
    throw comm::AgreedError(
        Exit::kMismatch,
        fmt::format("{} does not compute what {} does: log-probabilities differ by {:.2g} nats on "
                    "average, more than {}; do not use it",
                    made.string(), inputs.source.string(), mean, bound));
  }
}

}  // namespace

int convert(const config::Parsed& parsed, const comm::Communicator& world,
            comm::Watchdog& watchdog) {
  Inputs inputs;
  comm::Facts facts;
  world.together("read the model", [&] {
    inputs = read_inputs(parsed, world.size());
    facts = facts_of(inputs.config);
    facts.push_back(fact_of_model(inputs.source));
    check_folder(inputs.source, world);
  });
  comm::check_same(facts, world);
  comm::Mesh mesh = model::make_mesh(inputs.config, world.ledger());
  inputs.config.run.threads = choose_threads(inputs.config.run, mesh.node).count;
  log::print(
      table({{"from", inputs.text},
             {"to", fmt::format("{} ({})", fs::absolute(inputs.out).string(),
                                inputs.to_folder ? name_of(inputs.family) : "checkpoint")}}));
  constexpr double kWriteLimit = 3600.0;  // seconds until the watchdog ends the job
  watchdog.doing("a save", kWriteLimit);
  fs::path made = inputs.out;
  if (inputs.to_folder) {
    write_folder(inputs, world);
  } else {
    made = write_checkpoint(inputs, world);
  }
  watchdog.doing("loading");
  compare(inputs, made, mesh, watchdog);
  log::print(fmt::format("{}: {}", inputs.to_folder ? "folder" : "checkpoint", made.string()));
  mesh.close();
  return 0;
}

}  // namespace moesaic::cli
