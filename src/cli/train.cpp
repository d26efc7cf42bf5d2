#include "cli/train.h"

#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "base/log.h"
#include "base/text.h"
#include "cli/checkpoint_model.h"
#include "cli/facts.h"
#include "cli/threads.h"
#include "comm/mesh.h"
#include "config/compare.h"
#include "config/validate.h"
#include "io/checkpoint.h"
#include "io/files.h"
#include "io/run_lock.h"
#include "model/storage.h"
#include "plan/report.h"
#include "train/loop.h"

namespace moesaic::cli {
namespace {

// What rank 0 holds while it owns the outputs.
struct Outputs {
  std::unique_ptr<io::RunLock> lock;
};

// All that checkpoint.keep keeps, and the one being written, must fit.
void check_space(const config::Config& config, int ranks) {
  const double needed = static_cast<double>(config.checkpoint.keep + 1) *
                        plan::estimate(config, ranks).checkpoint_bytes;
  const auto free = static_cast<double>(std::filesystem::space(config.checkpoint.dir).available);
  if (needed > free) {
    throw Error(
        Exit::kCannotCreate,
        fmt::format("{}: checkpoint.keep + 1 = {} checkpoints need {:.0f} bytes ({}), {:.0f} "
                    "({}) are free: free some, keep fewer, or choose another run.dir",
                    config.checkpoint.dir, config.checkpoint.keep + 1, needed, short_bytes(needed),
                    free, short_bytes(free)));
  }
}

Outputs claim_outputs(const config::Config& config, int ranks) {
  Outputs outputs;
  const std::filesystem::path trace = config.trace.path;
  if (trace.has_parent_path()) {
    io::make_folder(trace.parent_path());
  }
  if (!config.checkpoint.dir.empty()) {
    io::make_folder(config.checkpoint.dir);
    check_space(config, ranks);
  }
  if (!config.run.dir.empty()) {
    io::make_folder(config.run.dir);
    outputs.lock = std::make_unique<io::RunLock>(config.run.dir);
    io::write_whole(std::filesystem::path(config.run.dir) / "config.cfg", config::to_cfg(config));
    log::add_file(std::filesystem::path(config.run.dir) / "log.txt");
  }
  return outputs;
}

void adopt_vocabulary(config::Config& config, const train::Corpora& corpora) {
  if (config.model.vocab_size == 0) {
    config.model.vocab_size = corpora.vocab_size();
  }
  if (config.model.vocab_size != corpora.vocab_size()) {
    throw Error(
        Exit::kBadData,
        fmt::format("model.vocab_size = {}, but {} has {} tokens: leave the key out, or "
                    "tokenize with that vocabulary",
                    config.model.vocab_size, config.data.corpus.front(), corpora.vocab_size()));
  }
}

void check_samples(const config::Config& config, const train::Corpora& corpora) {
  std::int64_t total = 0;
  for (const std::int64_t count : corpora.samples()) {
    total += count;
  }
  if (total == 0) {
    throw Error(Exit::kNoInput,
                fmt::format("{} has {} tokens, fewer than one sample of data.seq_len + 1 = {}",
                            config.data.corpus.front(), corpora.tokens(), config.data.seq_len + 1));
  }
}

void show_table(const config::Config& config, const comm::Mesh& mesh, const Threads& threads,
                const train::Corpora& corpora) {
  const std::string outputs =
      config.checkpoint.dir.empty()
          ? "no checkpoints (set run.dir or checkpoint.dir)"
          : fmt::format("{} (every {} steps, {:g} minutes)", config.checkpoint.dir,
                        config.checkpoint.every, config.checkpoint.every_minutes);
  log::print(plan::report(plan::estimate(config, mesh.world.size()), config, corpora.tokens()) +
             table({{"mesh", mesh.layout.text()},
                    {"placement", threads.place},
                    {"checkpoints", outputs},
                    {"trace", config.trace.path}}));
  const bool batch_job = std::getenv("SLURM_JOB_ID") != nullptr || config.run.max_wall >= 0.0;
  if (config.checkpoint.dir.empty() && batch_job) {
    log::warn("a batch job without checkpoints loses its work when it is stopped: set run.dir");
  }
}

// The state to start from: a checkpoint of this run, the weights of model.path, or random values.
train::Progress load_start(const config::Config& config, model::Instance& instance,
                           const std::optional<std::filesystem::path>& resume,
                           const std::string& vocab_sha256, comm::Watchdog& watchdog) {
  const auto got_on = [&] { watchdog.doing("loading"); };
  train::Progress progress;
  if (resume) {
    auto checkpoint = io::CheckpointReader::open(*resume);
    progress = train::check_resume(checkpoint.state(), config, vocab_sha256, *resume);
    model::load_parameters(instance, checkpoint, model::Load::kAll, got_on);
  } else if (!config.model.path.empty()) {
    auto checkpoint = io::CheckpointReader::open(config.model.path);
    check_vocabulary(checkpoint, vocab_sha256, config.data.corpus.front());
    progress.tasks = train::from_state(checkpoint.state()).tasks;
    model::load_parameters(instance, checkpoint, model::Load::kValues, got_on);
  } else {
    instance.parameters.initialise(*instance.backend, config.train.seed);
  }
  return progress;
}

}  // namespace

int train(const config::Parsed& parsed, const comm::Communicator& world, comm::Watchdog& watchdog) {
  config::Config config;
  train::Corpora corpora;
  train::Corpora eval_corpora;
  std::optional<std::filesystem::path> resume;
  comm::Facts facts;
  world.together("read the config", [&] {
    config = config::checked(adopt_checkpoint_model(parsed), world.size());
    corpora = train::Corpora::open(config.data.corpus, config.data.seq_len);
    eval_corpora = train::Corpora::open(config.data.eval_corpus, config.data.seq_len);
    corpora.check_vocabulary_of(eval_corpora);
    adopt_vocabulary(config, corpora);
    check_samples(config, corpora);
    resume = train::checkpoint_to_resume(config.checkpoint);
    facts = facts_of(config);
    facts.push_back(fact_of_checkpoint(resume.value_or("")));
    for (const train::Corpora* read : {&corpora, &eval_corpora}) {
      for (std::size_t c = 0; c < read->size(); ++c) {
        facts.push_back(fact_of(read->info(c).name, read->info(c).shards));
      }
    }
  });
  comm::check_same(facts, world);
  watchdog.doing("loading");
  auto task_index = train::TaskIndex::make(corpora, config.data.task_weights, world);
  comm::Mesh mesh = model::make_mesh(config, world.ledger());
  const Threads threads = choose_threads(config.run, mesh.node);
  config.run.threads = threads.count;
  Outputs outputs;
  world.together("create the outputs", [&] {
    if (world.is_root()) {
      outputs = claim_outputs(config, world.size());
    }
  });
  show_table(config, mesh, threads, corpora);
  if (!task_index.empty()) {
    log::info("samples by task: " + task_index.text());
  }

  std::optional<model::Instance> instance;
  train::Progress progress;
  world.together("set up the model", [&] {
    instance.emplace(config, mesh, true);
    progress = load_start(config, *instance, resume, corpora.vocab_sha256(), watchdog);
    corpora.join_tasks(progress.tasks);
    eval_corpora.join_tasks(progress.tasks);
  });
  const std::int64_t last_step = config::total_steps(config);
  if (resume) {
    log::info(
        fmt::format("resume from {} (step {} of {})", resume->string(), progress.step, last_step));
  }
  Exit result = Exit::kDone;
  if (progress.step >= last_step) {
    log::info(fmt::format("already at step {} of {}: nothing to do", progress.step, last_step));
  } else {
    result = train::run({.config = config,
                         .instance = *instance,
                         .corpora = corpora,
                         .task_index = task_index,
                         .eval_corpora = eval_corpora,
                         .progress = progress,
                         .resumed = resume.has_value(),
                         .watchdog = watchdog});
  }
  log::print(
      fmt::format("trace: {}{}", config.trace.path,
                  config.checkpoint.dir.empty() ? "" : "  checkpoints: " + config.checkpoint.dir));
  mesh.close();
  return static_cast<int>(result);
}

}  // namespace moesaic::cli
