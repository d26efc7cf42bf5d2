#include "cli/convert.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>

#include "base/io_error.h"
#include "base/log.h"
#include "base/text.h"
#include "checkpoint/load_weights.h"
#include "cli/calibrate.h"
#include "cli/checkpoint_model.h"
#include "cli/convert_write.h"
#include "cli/facts.h"
#include "cli/threads.h"
#include "comm/stop.h"
#include "config/enum_names.h"
#include "config/validate.h"
#include "engine/pipeline.h"
#include "files/run_lock.h"
#include "hf/family.h"

namespace moesaic::cli {
namespace {

namespace fs = std::filesystem;

bool wants_folder(const config::ConvertJob& job, checkpoint::ModelSource& source) {
  const bool from_folder = source.folder() != nullptr;
  const bool quantizes = job.quantize.has_value();
  if (job.to == config::ConvertTo::kAuto) {
    return !from_folder && !quantizes;
  }
  const bool to_folder = job.to == config::ConvertTo::kHf;
  if (!from_folder && !to_folder && !quantizes && !job.dtype) {
    throw Error(Exit::kUsage,
                fmt::format("{} is a checkpoint of moesaic already: to make a smaller one, set "
                            "convert.quantize or convert.dtype",
                            source.path().string()));
  }
  return to_folder;
}

// Experts that came or went have numbers that no other program knows.
void check_pool(const checkpoint::ModelSource& source) {
  for (const std::string& expert_pool : source.pool()) {
    if (expert_pool.find_first_not_of('r') != std::string::npos ||
        expert_pool != source.pool().front()) {
      throw Error(Exit::kUsage,
                  fmt::format("{}: a layer has spare or retired experts ({}), which Hugging Face "
                              "folders cannot hold",
                              source.path().string(), expert_pool));
    }
  }
}

// Throws unless OUT is free; an unfinished save of an earlier conversion may be there.
void check_output(const fs::path& out) {
  std::error_code none;
  const bool only_a_save = fs::exists(out / "step-00000000.tmp") &&
                           std::distance(fs::directory_iterator(out, none), {}) == 1;
  if (fs::exists(out) && !fs::is_directory(out)) {
    throw Error(Exit::kCannotCreate,
                fmt::format("{}: is a file: name another folder", fs::absolute(out).string()));
  }
  if (!only_a_save && !hf::is_free(out)) {
    throw Error(Exit::kCannotCreate,
                fmt::format("{}: is not empty: name another folder", fs::absolute(out).string()));
  }
}

ConvertInputs read_inputs(config::Parsed parsed, int ranks, checkpoint::Catalog& catalog) {
  if (parsed.arguments.size() != 2) {
    throw Error(Exit::kUsage, "convert takes two arguments: moesaic convert IN OUT");
  }
  parsed.config.model.path = parsed.arguments[0];
  checkpoint::ModelSource& source = catalog.model(parsed.arguments[0]);
  ConvertInputs inputs{.config = config::checked(adopt_model(parsed, catalog), ranks),
                       .source = source.path(),
                       .out = parsed.arguments[1],
                       .to_folder = wants_folder(parsed.config.convert, source),
                       .text = source.text(),
                       .tasks = source.tasks(),
                       .vocab_sha256 = source.vocab_sha256()};
  inputs.config.model.path.clear();
  adopt_pool(source, inputs.config);
  adopt_tasks(inputs.tasks, inputs.config);
  if (source.folder() != nullptr) {
    inputs.family = source.folder()->config().family;
  } else if (inputs.to_folder) {
    check_pool(source);
    if (!source.pool().empty()) {
      inputs.config.model.experts = std::ssize(source.pool().front());
    }
    inputs.family = &hf::family_for(inputs.config.model, inputs.config.router);
  }
  return inputs;
}

// As many tokens as a short sentence has, spread over the vocabulary.
data::MicroBatch probe(const config::Config& config) {
  std::vector<std::int32_t> tokens(
      static_cast<std::size_t>(std::min<std::int64_t>(48, config.model.max_seq)));
  std::int64_t place = 0;
  for (std::int32_t& token : tokens) {
    token = static_cast<std::int32_t>(7919 * ++place % config.model.vocab_size);
  }
  return data::text_batch(tokens, std::ssize(tokens));
}

/// Log-probabilities of the probe; on the last stage. Collective over the mesh.
std::vector<float> compute(const config::Config& config, checkpoint::ModelSource& source,
                           const comm::Mesh& mesh, comm::Watchdog& watchdog) {
  std::optional<engine::Instance> instance;
  mesh.world.together("set up the check", [&] {
    instance.emplace(config, mesh, engine::Use::kManyRows);
    load_values(*instance, source, watchdog);
  });
  model::Context ctx = instance->context();
  ctx.batch.dropless = true;
  const data::MicroBatch batch = probe(config);
  std::vector<float> result;
  engine::forward_all(*instance, ctx, std::span(&batch, 1), [&](std::size_t, const Tensor& hidden) {
    result = instance->transformer.head().log_probs(ctx, hidden).logprob;
  });
  return result;
}

/// How far log-probabilities may be off on average, in nats: what rounding does and errors do not.
double bound_of(const ConvertInputs& inputs) {
  constexpr double kExact = 1e-6, kSixteenBits = 0.1, kInt8 = 0.25, kInt4 = 1.0;
  if (const auto quantize = inputs.config.convert.quantize) {
    return quantize == DType::kInt8 ? kInt8 : kInt4;
  }
  return dtype_of(inputs) == DType::kF32 ? kExact : kSixteenBits;
}

// By rank 0. What cannot be removed stays: the message says that it is of no use.
void remove_made(const ConvertInputs& inputs, const fs::path& made, const comm::Mesh& mesh) {
  if (!mesh.world.is_root()) {
    return;
  }
  try {
    if (inputs.to_folder) {
      hf::clear_written(made);
    } else {
      fs::remove_all(made);
      fs::remove(inputs.out / "latest");
    }
  } catch (const std::exception& error) {
    log::warn(fmt::format("{}: remove it: {}", made.string(), error.what()));
  }
}

/// What the copy computes; a damaged one is removed. Collective over the mesh.
std::vector<float> compute_copy(const ConvertInputs& inputs, const fs::path& made,
                                const comm::Mesh& mesh, comm::Watchdog& watchdog) {
  config::Config stored = inputs.config;
  stored.run.quantize = inputs.config.convert.quantize;
  try {
    checkpoint::Catalog catalog;
    checkpoint::read_once(catalog, mesh.world, "open the copy", [&] { catalog.model(made); });
    return compute(stored, catalog.model(made), mesh, watchdog);
  } catch (const comm::AgreedError& error) {
    if (error.code() != Exit::kBadData) {
      throw;
    }
    remove_made(inputs, made, mesh);
    throw comm::AgreedError(
        error.code(), fmt::format("the copy cannot be read back, and is removed: {}", error.what()),
        error.where());
  }
}

/// Throws kMismatch if the two models do not compute the same, as far as what is stored lets them.
/// Collective over the mesh.
void compare(const ConvertInputs& inputs, checkpoint::ModelSource& source, const fs::path& made,
             const comm::Mesh& mesh, comm::Watchdog& watchdog) {
  const std::vector<float> was = compute(inputs.config, source, mesh, watchdog);
  const std::vector<float> is = compute_copy(inputs, made, mesh, watchdog);
  double differences = 0.0, number = 0.0;
  for (std::size_t i = 0; i < was.size(); ++i) {
    differences += std::abs(static_cast<double>(was[i]) - static_cast<double>(is[i]));
    number += 1.0;
  }
  mesh.world.sum({differences, number});
  const double mean = differences / std::max(1.0, number);
  const double bound = bound_of(inputs);
  log::print(fmt::format("check: log-probabilities of {} tokens differ by {:.2g} nats on average",
                         probe(inputs.config).counted(), mean));
  if (!(mean <= bound)) {
    remove_made(inputs, made, mesh);
    throw comm::AgreedError(
        Exit::kMismatch,
        fmt::format("{} does not compute what {} does: log-probabilities differ by {:.2g} nats on "
                    "average, more than {}; it is removed",
                    made.string(), inputs.source.string(), mean, bound));
  }
}

/// Compares the two; a copy that could not be compared stays, unless the job is to stop. Collective
/// over the mesh.
void check(const ConvertInputs& inputs, checkpoint::ModelSource& source, const fs::path& made,
           const comm::Mesh& mesh, comm::Watchdog& watchdog) {
  watchdog.loading();
  try {
    compare(inputs, source, made, mesh, watchdog);
  } catch (const comm::AgreedError& error) {
    if (error.code() == Exit::kTerminated) {
      remove_made(inputs, made, mesh);  // nobody has checked it
    }
    const std::array theirs = {Exit::kBadData, Exit::kMismatch, Exit::kTerminated};
    if (std::find(theirs.begin(), theirs.end(), error.code()) != theirs.end()) {
      throw;
    }
    throw comm::AgreedError(
        error.code(),
        fmt::format("{} is complete, but could not be compared with the original: {}; use it as it "
                    "is, or remove it and run this again",
                    made.string(), error.what()),
        error.where());
  }
}

/// "checkpoint, int4 and fp32"
std::string kind_text(const ConvertInputs& inputs) {
  const std::string dtype = name_of(dtype_of(inputs));
  if (inputs.to_folder) {
    return fmt::format("{}, {}", inputs.family->name, dtype);
  }
  return !inputs.config.convert.quantize
             ? fmt::format("checkpoint, {}", dtype)
             : fmt::format("checkpoint, {} and {}", name_of(*inputs.config.convert.quantize),
                           dtype);
}

}  // namespace

int convert(const config::Parsed& parsed, const comm::Communicator& world,
            comm::Watchdog& watchdog) {
  ConvertInputs inputs;
  data::ScoreCorpora corpora;  // of the calibration
  comm::Facts facts;
  checkpoint::Catalog catalog;
  std::optional<files::RunLock> lock;  // on rank 0
  checkpoint::read_once(catalog, world, "read the model", [&] {
    inputs = read_inputs(parsed, world.size(), catalog);
    checkpoint::ModelSource& source = catalog.model(parsed.arguments[0]);
    facts = facts_of(inputs.config);
    facts.push_back(fact_of(source));
    corpora = open_calibration(inputs.config, source, inputs.tasks, catalog);
    if (world.is_root()) {
      check_folder(source, world);
      check_output(inputs.out);
      at_start([&] { lock.emplace(files::RunLock::beside(inputs.out)); });
      check_output(inputs.out);  // another job may just have ended
    }
  });
  comm::check_same(facts, world);
  comm::agree_to_go_on("loading", world);
  checkpoint::ModelSource& source = catalog.model(parsed.arguments[0]);
  comm::Mesh mesh = engine::make_mesh(inputs.config, world.ledger());
  inputs.config.run.threads = choose_threads(inputs.config.run, mesh.node).count;
  log::print(table(
      {{"from", inputs.text},
       {"to", fmt::format("{} ({})", fs::absolute(inputs.out).string(), kind_text(inputs))}}));
  checkpoint::Calibration calibration;
  if (corpora.shards() > 0) {
    calibration = calibrate(inputs.config, source, corpora, mesh, watchdog);
  }
  watchdog.saving();
  const auto on_progress = [&] { watchdog.saving(); };
  const fs::path made = inputs.to_folder
                            ? write_folder(inputs, source, world, on_progress)
                            : write_checkpoint(inputs, source, calibration, world, on_progress);
  if (inputs.config.convert.check) {
    check(inputs, source, made, mesh, watchdog);
  }
  log::print(fmt::format("{}: {}", inputs.to_folder ? "folder" : "checkpoint", made.string()));
  mesh.close();
  return 0;
}

}  // namespace moesaic::cli
