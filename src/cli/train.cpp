#include "cli/train.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "base/log.h"
#include "base/text.h"
#include "cli/checkpoint_model.h"
#include "cli/facts.h"
#include "cli/threads.h"
#include "cli/trace_size.h"
#include "cli/train_inputs.h"
#include "comm/launch.h"
#include "comm/mesh.h"
#include "config/compare.h"
#include "config/routing_steps.h"
#include "config/validate.h"
#include "io/checkpoint.h"
#include "io/checkpoint_manifest.h"
#include "io/files.h"
#include "io/run_lock.h"
#include "io/space.h"
#include "model/storage.h"
#include "plan/report.h"
#include "train/control_file.h"
#include "train/loop.h"

namespace moesaic::cli {
namespace {

// What rank 0 holds while it owns the outputs.
struct Outputs {
  std::unique_ptr<io::RunLock> lock;
};

std::size_t task_names_of(const train::Corpora& corpora) {
  std::set<std::string> names;
  for (std::size_t c = 0; c < corpora.size(); ++c) {
    names.insert(corpora.info(c).task_names.begin(), corpora.info(c).task_names.end());
  }
  return names.size();
}

// The last step of which checkpoints count: a run that begins anew (-1), or at one that it names,
// leaves those of later steps behind.
std::int64_t last_that_counts(const config::Checkpoint& config,
                              const std::optional<std::filesystem::path>& resume) {
  if (config.resume == "auto") {
    return std::numeric_limits<std::int64_t>::max();
  }
  return resume ? io::CheckpointReader::open(*resume).state().at("step").get<std::int64_t>() : -1;
}

// Bytes that make way for new checkpoints.
double bytes_that_count(const std::filesystem::path& dir, std::int64_t last) {
  double bytes = 0.0;
  for (const std::filesystem::path& folder : io::complete_checkpoints(dir)) {
    bytes += folder <= io::checkpoint_folder(dir, last) ? io::bytes_below(folder) : 0.0;
  }
  return bytes;
}

void set_aside_later(const config::Config& config, std::int64_t last) {
  const auto own = [&](const std::filesystem::path& folder) {
    const std::filesystem::path model = config.model.path;
    return !model.empty() &&
           std::filesystem::equivalent(io::ModelSource::open(model).path(), folder);
  };
  const auto later = io::complete_checkpoints(config.checkpoint.dir);
  if (last == -1 && std::any_of(later.begin(), later.end(), own)) {
    throw Error(Exit::kUsage,
                fmt::format("model.path = {} lies in checkpoint.dir = {}, whose checkpoints a run "
                            "that begins anew leaves behind: choose another run.dir",
                            config.model.path, config.checkpoint.dir));
  }
  for (const std::filesystem::path& other : io::set_aside_later(config.checkpoint.dir, last)) {
    log::info(fmt::format("a checkpoint of a later step is now {}", other.string()));
  }
}

// All that checkpoint.keep keeps, the one being written, and the trace must fit.
void check_outputs_fit(const config::Config& config, int ranks, const train::Corpora& corpora,
                       std::int64_t last) {
  std::vector<io::SpaceNeed> needs;
  if (!config.checkpoint.dir.empty()) {
    const double each = plan::estimate(config, ranks).checkpoint_bytes;
    const double kept = static_cast<double>(config.checkpoint.keep) * each;
    needs.push_back(
        {fmt::format("checkpoint.keep + 1 = {} checkpoints", config.checkpoint.keep + 1),
         config.checkpoint.dir,
         each + std::max(0.0, kept - bytes_that_count(config.checkpoint.dir, last))});
  }
  const std::int64_t rows = config::total_steps(config) / config.trace.every;
  const double trace = trace_size(config, ranks, task_names_of(corpora), corpora.size(), rows);
  needs.push_back({fmt::format("a trace of {} rows", rows), config.trace.path,
                   std::max(0.0, trace - io::bytes_below(config.trace.path))});
  if (const std::int64_t steps = config::routing_steps(config.trace, config::total_steps(config));
      steps > 0) {
    const std::string record = config::routing_path(config.trace);
    const double bytes = static_cast<double>(steps) * routing_size(config);
    needs.push_back({fmt::format("a routing record of {} steps", steps), record,
                     std::max(0.0, bytes - io::bytes_below(record))});
  }
  io::check_space(needs,
                  "free some, keep fewer, raise trace.every, name fewer steps in trace.routing, or "
                  "choose another run.dir");
}

Outputs claim_outputs(const config::Config& config, int ranks, const train::Corpora& corpora,
                      std::int64_t last) {
  Outputs outputs;
  const std::filesystem::path trace = config.trace.path;
  if (trace.has_parent_path()) {
    io::make_folder(trace.parent_path());
  }
  if (!config.checkpoint.dir.empty()) {
    io::make_folder(config.checkpoint.dir);
  }
  check_outputs_fit(config, ranks, corpora, last);
  if (!config.run.dir.empty()) {
    io::make_folder(config.run.dir);
    outputs.lock = std::make_unique<io::RunLock>(config.run.dir);
    io::write_whole(std::filesystem::path(config.run.dir) / "config.cfg", config::to_cfg(config));
    log::add_file(std::filesystem::path(config.run.dir) / "log.txt");
  }
  if (!config.checkpoint.dir.empty()) {
    set_aside_later(config, last);
  }
  return outputs;
}

void show_table(const config::Config& config, const comm::Mesh& mesh, const Threads& threads,
                const train::Corpora& corpora) {
  const std::string outputs =
      config.checkpoint.dir.empty()
          ? "no checkpoints (set run.dir or checkpoint.dir)"
          : fmt::format("{} (every {} steps, {:g} minutes)", config.checkpoint.dir,
                        config.checkpoint.every, config.checkpoint.every_minutes);
  std::vector<std::vector<std::string>> places = {
      {"placement", threads.place},
      {"mpi", fmt::format("{}, threads {}, transport {}", comm::mpi_library(), comm::mpi_threads(),
                          comm::mpi_transport())},
      {"checkpoints", outputs},
      {"trace", config.trace.path}};
  if (!config.trace.routing.empty()) {
    places.push_back(
        {"routing record",
         fmt::format("{} ({} bytes, {}, for each of {} steps)", config::routing_path(config.trace),
                     routing_size(config), short_bytes(routing_size(config)),
                     config::routing_steps(config.trace, config::total_steps(config)))});
  }
  log::print(plan::report(plan::estimate(config, mesh.world.size()), config, corpora.tokens()) +
             table(mesh.layout.rows()) + table(places));
  const bool batch_job = std::getenv("SLURM_JOB_ID") != nullptr || config.run.max_wall >= 0.0;
  if (config.checkpoint.dir.empty() && batch_job) {
    log::warn("a batch job without checkpoints loses its work when it is stopped: set run.dir");
  }
}

// Those of the corpus, where the model has none.
void add_special(const io::CorpusInfo& corpus, io::SpecialTokens& special) {
  const auto add = [](std::int64_t token, std::vector<std::int32_t>& tokens) {
    if (tokens.empty() && token >= 0) {
      tokens.push_back(static_cast<std::int32_t>(token));
    }
  };
  add(corpus.bos_id, special.bos);
  add(corpus.eos_id, special.eos);
}

// What lies beside the model or the checkpoint that is gone on from; the tokenizer is the corpus's.
std::map<std::string, std::string> texts_beside(const std::string& path,
                                                const io::CorpusInfo& corpus) {
  std::map<std::string, std::string> texts;
  if (path.empty()) {
    return texts;
  }
  for (const auto& file : io::companion_files(io::ModelSource::open(path).path())) {
    if (corpus.tokenizer.empty() || file.stem() != "tokenizer") {
      texts[file.filename().string()] = io::read_whole(file);
    }
  }
  return texts;
}

// The state to start from: a checkpoint of this run, the weights of model.path, or random values.
train::Progress load_start(const config::Config& config, model::Instance& instance,
                           const std::optional<std::filesystem::path>& resume,
                           const io::CorpusInfo& corpus, comm::Watchdog& watchdog,
                           const model::PoolChange* change) {
  const auto on_progress = [&] { watchdog.loading(); };
  train::Progress progress;
  if (resume) {
    auto source = io::ModelSource::open(*resume);
    progress =
        train::check_resume(source.checkpoint()->state(), config, corpus.vocab_sha256, *resume);
    model::load_parameters(instance, source, model::Load::kAll, on_progress, change);
  } else if (!config.model.path.empty()) {
    auto source = io::ModelSource::open(config.model.path);
    check_vocabulary(source, corpus);
    progress.tasks = source.tasks();
    progress.special = source.special_tokens();
    model::load_parameters(instance, source, model::Load::kValues, on_progress);
  } else {
    instance.parameters.initialise(*instance.backend, config.train.seed);
  }
  add_special(corpus, progress.special);
  return progress;
}

// What is known of the model before its parameters are: experts and tasks, those of the checkpoint
// first.
void adopt_state(TrainInputs& inputs, const std::optional<std::filesystem::path>& resume) {
  std::vector<std::string> tasks = train::Progress{}.tasks;
  const std::string source = resume ? resume->string() : inputs.config.model.path;
  if (!source.empty()) {
    auto model = io::ModelSource::open(source);
    refuse_quantized(model, "train from");
    adopt_pool(model, inputs.config);
    tasks = model.tasks();
  }
  inputs.corpora.join_tasks(tasks);
  inputs.eval_corpora.join_tasks(tasks);
  adopt_tasks(tasks, inputs.config);
}

// Of the checkpoint stay parameters, moments and step; the data goes on after the bad step.
void continue_behind(const train::Rollback& rollback, train::Progress& progress) {
  const std::string message =
      fmt::format("{}; went back to {} and left out the samples {}:{}", rollback.reason,
                  rollback.checkpoint.string(), progress.cursor, rollback.cursor);
  progress.cursor = rollback.cursor;
  progress.notes = {{"rollback", message}};
  log::warn(message);
}

// The checkpoint has all but the new experts, and what was done becomes an event.
void continue_changed(const train::ExpertChange& wanted, const model::PoolChange& change,
                      train::Progress& progress) {
  std::vector<std::string> requests;
  for (const config::PoolRequest& request : wanted.requests) {
    requests.push_back(config::text_of(request));
  }
  const std::string message = fmt::format("{}: {}", join(requests, "; "), change.text());
  progress.control = wanted.control;
  progress.notes.push_back({"experts", message});
  log::info(fmt::format("step {}: {}", progress.step, message));
}

// What can be done to some experts could not be done to those that the loads chose.
void continue_unchanged(const std::string& reason, const std::string& control,
                        const comm::Communicator& world, train::Progress& progress) {
  progress.notes.push_back({"control_refused", reason});
  log::warn(fmt::format("the run goes on with the experts it has: {}", reason));
  if (world.is_root()) {
    train::ControlFile(control).refuse();
  }
}

}  // namespace

int train(const config::Parsed& parsed, const comm::Communicator& world, comm::Watchdog& watchdog) {
  TrainInputs inputs;
  std::optional<std::filesystem::path> resume;
  comm::Facts facts;
  world.together("read the config", [&] {
    inputs = read_train_inputs(parsed, world.size());
    if (world.is_root()) {
      check_targets(inputs);
    }
    resume = train::checkpoint_to_resume(inputs.config.checkpoint);
    adopt_state(inputs, resume);
    facts = facts_of(inputs.config);
    facts.push_back(fact_of_model(resume.value_or(inputs.config.model.path)));
    for (const train::Corpora* read : {&inputs.corpora, &inputs.eval_corpora}) {
      for (std::size_t c = 0; c < read->size(); ++c) {
        facts.push_back(fact_of(read->info(c).name, read->info(c).shards));
      }
    }
  });
  comm::check_same(facts, world);
  watchdog.loading();
  config::Config& config = inputs.config;
  train::Corpora& corpora = inputs.corpora;
  train::Corpora& eval_corpora = inputs.eval_corpora;
  auto task_index = train::TaskIndex::make(corpora, config.data.task_weights, world);
  comm::Mesh mesh = model::make_mesh(config, world.ledger());
  const Threads threads = choose_threads(config.run, mesh.node);
  config.run.threads = threads.count;
  Outputs outputs;
  world.together("create the outputs", [&] {
    if (world.is_root()) {
      outputs =
          claim_outputs(config, world.size(), corpora, last_that_counts(config.checkpoint, resume));
    }
  });
  show_table(config, mesh, threads, corpora);
  if (!task_index.empty()) {
    log::info("samples by task: " + task_index.text());
  }

  std::optional<model::Instance> instance;
  train::Progress progress;
  const auto load = [&](const model::PoolChange* change) {
    instance.emplace(config, mesh, model::Use::kTraining);
    progress = load_start(config, *instance, resume, corpora.info(0), watchdog, change);
    corpora.join_tasks(progress.tasks);
    eval_corpora.join_tasks(progress.tasks);
  };
  std::map<std::string, std::string> beside;  // on rank 0
  world.together("set up the model", [&] {
    if (!resume) {
      check_folder(config.model.path, world);
    }
    if (world.is_root()) {
      beside = texts_beside(resume ? resume->string() : config.model.path, corpora.info(0));
    }
    load(nullptr);
  });
  const std::int64_t last_step = config::total_steps(config);
  if (resume) {
    log::info(
        fmt::format("resume from {} (step {} of {})", resume->string(), progress.step, last_step));
  }
  train::Outcome outcome;
  if (progress.step >= last_step && !progress.evaluation_due) {
    log::info(fmt::format("already at step {} of {}: nothing to do", progress.step, last_step));
  } else {
    train::SavePolicy policy(config, last_step);
    const comm::StopSignal signal;
    const auto run = [&](std::int64_t rollbacks) {
      return train::run({.config = config,
                         .instance = *instance,
                         .corpora = corpora,
                         .task_index = task_index,
                         .eval_corpora = eval_corpora,
                         .progress = progress,
                         .checkpoint = resume,
                         .beside = beside,
                         .rollbacks = rollbacks,
                         .policy = policy,
                         .signal = signal,
                         .watchdog = watchdog});
    };
    std::int64_t rollbacks = config.train.rollbacks;
    outcome = run(rollbacks);
    while (outcome.rollback || outcome.experts) {
      resume = outcome.rollback ? outcome.rollback->checkpoint : outcome.experts->checkpoint;
      world.together("start again from a checkpoint", [&] {
        instance.reset();  // the experts may be others
        auto source = io::ModelSource::open(*resume);
        adopt_pool(source, config);
        std::optional<model::PoolChange> change;
        std::string refused;
        if (outcome.experts) {
          try {
            change = adopt_change(source, outcome.experts->requests, config);
          } catch (const Error& error) {
            if (error.code() != Exit::kUsage) {  // a file that this rank cannot read
              throw;
            }
            refused = error.what();
          }
        }
        load(change ? &*change : nullptr);
        if (change) {
          continue_changed(*outcome.experts, *change, progress);
        } else if (outcome.experts) {
          continue_unchanged(refused, config.run.control, world, progress);
        } else {
          continue_behind(*outcome.rollback, progress);
        }
      });
      rollbacks -= outcome.rollback ? 1 : 0;
      outcome = run(rollbacks);
    }
  }
  log::print(
      fmt::format("trace: {}{}", config.trace.path,
                  config.checkpoint.dir.empty() ? "" : "  checkpoints: " + config.checkpoint.dir));
  mesh.close();
  return static_cast<int>(outcome.exit);
}

}  // namespace moesaic::cli
