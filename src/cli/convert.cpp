#include <fmt/format.h>

#include <optional>

#include "base/io_error.h"
#include "base/log.h"
#include "base/text.h"
#include "checkpoint/gate_state.h"
#include "cli/calibrate.h"
#include "cli/checkpoint_model.h"
#include "cli/convert_check.h"
#include "cli/convert_write.h"
#include "cli/job.h"
#include "cli/jobs.h"
#include "comm/stop.h"
#include "config/validate.h"
#include "files/run_lock.h"
#include "hf/config.h"
#include "hf/family.h"
#include "hf/unfinished.h"
#include "train/resume.h"

namespace moesaic::cli {
namespace {

namespace fs = std::filesystem;

bool wants_folder(const config::ConvertJob& job, checkpoint::ModelSource& source) {
  const bool from_folder = source.folder() != nullptr;
  const bool quantizes = job.quantize.has_value();
  if (job.to == config::ConvertTo::kAuto) {
    return !from_folder && !quantizes;
  }
  if (job.to == config::ConvertTo::kPeft) {
    return false;
  }
  const bool to_folder = job.to == config::ConvertTo::kHf;
  if (!from_folder && !to_folder && !quantizes && !job.dtype && !source.has_base() &&
      !source.has_adapters()) {
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

// A PEFT folder holds adapters alone, of one base.
void check_adapters(checkpoint::ModelSource& source, const std::string& more) {
  const checkpoint::Lineage lineage = source.lineage();
  if (!more.empty() || (!lineage.empty() && !lineage.back().adapter.empty())) {
    throw Error(
        Exit::kUsage,
        fmt::format("convert.to = peft: the adapters of {} are trained on a base with others "
                    "({}): convert that base to a model first, and train on it",
                    source.path().string(), more.empty() ? lineage.back().adapter : more));
  }
  const bool has_adapters = source.has_adapters();
  const std::vector<std::string> trained =
      has_adapters ? train::config_of(source.checkpoint()->state()).train.trainable
                   : std::vector<std::string>{};
  if (!has_adapters || trained != std::vector<std::string>{"adapter"}) {
    throw Error(
        Exit::kUsage,
        fmt::format("convert.to = peft: {} {}", source.path().string(),
                    has_adapters ? "has more that was trained than adapters (train.trainable = " +
                                       join(trained, ",") + "): convert it to a whole model"
                                 : "has no adapters"));
  }
}

// convert.merge = 0: the copy has the adapters of the original, and its weights as they were.
void keep_apart(checkpoint::ModelSource& source, ConvertInputs& inputs) {
  if (!source.has_adapters() || inputs.to_folder || inputs.config.convert.quantize) {
    throw Error(Exit::kUsage,
                fmt::format("convert.merge = 0 copies a checkpoint and its adapters, neither to a "
                            "Hugging Face folder nor quantized: {} cannot be copied so",
                            source.path().string()));
  }
  source.keep_adapters_apart();
  const config::Config original = train::config_of(source.checkpoint()->state());
  inputs.config.adapter = original.adapter;
  inputs.config.train.trainable = original.train.trainable;
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

}  // namespace

ConvertInputs read_convert_inputs(config::Parsed parsed, int ranks, checkpoint::Catalog& catalog) {
  if (parsed.arguments.size() != 2) {
    throw Error(Exit::kUsage, "convert takes two arguments: moesaic convert IN OUT");
  }
  parsed.config.model.path = parsed.arguments[0];
  checkpoint::ModelSource& source = catalog.model(parsed.arguments[0], parsed.config.model.adapter);
  ConvertInputs inputs{.config = config::checked(adopt_model(parsed, catalog), ranks),
                       .source = source.path(),
                       .out = parsed.arguments[1],
                       .to_folder = wants_folder(parsed.config.convert, source),
                       .text = source.text(),
                       .tasks = source.tasks(),
                       .vocab_sha256 = source.vocab_sha256()};
  inputs.config.model.path.clear();
  inputs.gates = checkpoint::gates_of(source, inputs.config);
  inputs.to_peft = inputs.config.convert.to == config::ConvertTo::kPeft;
  if (inputs.to_peft) {
    check_adapters(source, inputs.config.model.adapter);
    check_pool(source);
    hf::HfFolder* const base = source.has_base() ? source.base()->folder() : nullptr;
    inputs.family = base != nullptr ? base->config().family
                                    : &hf::family_for(inputs.config.model, inputs.config.router);
    return inputs;
  }
  if (!inputs.config.convert.merge) {
    keep_apart(source, inputs);
  }
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

namespace {

/// "checkpoint, int4 and fp32"
std::string kind_text(const ConvertInputs& inputs) {
  const std::string dtype = name_of(dtype_of(inputs));
  if (inputs.to_peft) {
    return fmt::format("PEFT adapters, {}", dtype);
  }
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
  data::Corpora corpora;  // of the calibration
  comm::Facts facts;
  checkpoint::Catalog catalog;
  std::optional<files::RunLock> lock;  // on rank 0
  checkpoint::read_once(catalog, world, "read the model", [&] {
    inputs = read_convert_inputs(parsed, world.size(), catalog);
    checkpoint::ModelSource& source =
        catalog.model(parsed.arguments[0], parsed.config.model.adapter);
    facts = facts_of(inputs.config, &source);
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
  checkpoint::ModelSource& source = catalog.model(parsed.arguments[0], parsed.config.model.adapter);
  comm::Mesh mesh = arrange_ranks(inputs.config, world).mesh;
  log::print(table(
      {{"from", inputs.text},
       {"to", fmt::format("{} ({})", fs::absolute(inputs.out).string(), kind_text(inputs))}}));
  checkpoint::Calibration calibration;
  if (corpora.shards() > 0) {
    calibration = calibrate(inputs.config, inputs.gates, source, corpora, mesh, watchdog);
  }
  watchdog.saving();
  const auto on_progress = [&] { watchdog.saving(); };
  const fs::path made = write_copy(inputs, source, calibration, world, on_progress);
  source.keep_adapters_apart(false);  // both compute with them
  if (inputs.config.convert.check && !inputs.to_peft) {
    check_copy(inputs, source, made, mesh, watchdog);
  }
  log::print(fmt::format("{}: {}", inputs.to_folder || inputs.to_peft ? "folder" : "checkpoint",
                         made.string()));
  mesh.close();
  return 0;
}

}  // namespace moesaic::cli
