#include "cli/train.h"

#include <fmt/format.h>

#include <limits>
#include <map>
#include <optional>
#include <utility>

#include "base/io_error.h"
#include "base/log.h"
#include "base/text.h"
#include "checkpoint/catalog.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/load_weights.h"
#include "cli/checkpoint_model.h"
#include "cli/facts.h"
#include "cli/threads.h"
#include "cli/trace_size.h"
#include "cli/train_inputs.h"
#include "cli/train_outputs.h"
#include "comm/launch.h"
#include "comm/mesh.h"
#include "comm/stop.h"
#include "config/routing_steps.h"
#include "config/validate.h"
#include "files/durable.h"
#include "plan/report.h"
#include "train/control_file.h"
#include "train/loop.h"

namespace moesaic::cli {
namespace {

// Where a run starts from: a checkpoint of its own, or the weights of model.path; both may be
// missing.
struct Origin {
  std::optional<std::filesystem::path> resume;
  train::Progress progress = {};
  checkpoint::ModelSource* source = nullptr;  // of the catalog
};

// The last step of which checkpoints count (TrainOutputs).
std::int64_t last_that_counts(const config::Checkpoint& config, const Origin& origin) {
  if (config.resume == "auto") {
    return std::numeric_limits<std::int64_t>::max();
  }
  return origin.resume ? origin.progress.step : -1;
}

void show_table(const config::Config& config, const comm::Mesh& mesh, const Threads& threads,
                const data::Corpora& corpora) {
  const std::string outputs =
      config.checkpoint.dir.empty()
          ? "no checkpoints (set run.dir or checkpoint.dir)"
          : fmt::format("{} (every {} steps, {:g} minutes)", config.checkpoint.dir,
                        config.checkpoint.every, config.checkpoint.every_minutes);
  std::vector<std::vector<std::string>> lines = {{"placement", threads.placement},
                                                 {"mpi", comm::mpi_text()},
                                                 {"checkpoints", outputs},
                                                 {"trace", config.trace.path}};
  if (!config.trace.routing.empty()) {
    lines.push_back(
        {"routing record",
         fmt::format("{} ({} bytes, {}, for each of {} steps)", config::routing_path(config.trace),
                     routing_size(config), short_bytes(routing_size(config)),
                     config::routing_steps(config.trace, config::total_steps(config)))});
  }
  log::print(plan::report(plan::estimate(config, mesh.world.size()), config, corpora.tokens()) +
             table(mesh.layout.rows()) + table(lines));
  const bool batch_job = std::getenv("SLURM_JOB_ID") != nullptr || config.run.max_wall >= 0.0;
  if (config.checkpoint.dir.empty() && batch_job) {
    log::warn("a batch job without checkpoints loses its work when it is stopped: set run.dir");
  }
}

// Those of the corpus, where the model has none.
void add_special(const data::CorpusInfo& corpus, hf::SpecialTokens& special) {
  const auto add = [](std::int64_t token, std::vector<std::int32_t>& tokens) {
    if (tokens.empty() && token >= 0) {
      tokens.push_back(static_cast<std::int32_t>(token));
    }
  };
  add(corpus.bos_id, special.bos);
  add(corpus.eos_id, special.eos);
}

// Sidecar files of the model or the checkpoint that training starts from; the tokenizer is the
// corpus's.
std::map<std::string, std::string> sidecar_texts(const std::filesystem::path& folder,
                                                 const data::CorpusInfo& corpus) {
  std::map<std::string, std::string> texts;
  for (const auto& file : hf::sidecar_files(folder)) {
    if (corpus.tokenizer.empty() || file.stem() != "tokenizer") {
      texts[file.filename().string()] = files::read_whole(file);
    }
  }
  return texts;
}

// The tensors to start from, or random values.
void load_start(const config::Config& config, engine::Instance& instance, const Origin& origin,
                comm::Watchdog& watchdog, const checkpoint::PoolChange* change) {
  if (origin.source == nullptr) {
    instance.parameters.initialise(*instance.backend, config.train.seed);
    return;
  }
  checkpoint::load_parameters(instance, *origin.source,
                              origin.resume ? checkpoint::Load::kAll : checkpoint::Load::kValues,
                              on_loading(watchdog), change);
}

// Throws if the run may not start so. What is known of the model before its parameters are: experts
// and tasks, those of the checkpoint first.
void adopt_origin(TrainInputs& inputs, const train::RunData& data, checkpoint::Catalog& catalog,
                  Origin& origin) {
  std::vector<std::string> tasks = train::Progress{}.tasks;
  const std::string path = origin.resume ? origin.resume->string() : inputs.config.model.path;
  if (!path.empty()) {
    origin.source = &catalog.model(path);
    checkpoint::ModelSource& source = *origin.source;
    refuse_quantized(source, "train from");
    if (origin.resume) {
      origin.resume = source.path();
      origin.progress =
          train::check_resume(source.checkpoint()->state(), inputs.config, data, source.path());
    } else {
      check_vocabulary(source, inputs.corpora.info(0));
      origin.progress.tasks = source.tasks();
      origin.progress.special = source.special_tokens();
    }
    adopt_pool(source, inputs.config);
    tasks = source.tasks();
  }
  add_special(inputs.corpora.info(0), origin.progress.special);
  inputs.corpora.join_tasks(tasks);
  inputs.eval_corpora.join_tasks(tasks);
  origin.progress.tasks = tasks;
  adopt_tasks(tasks, inputs.config);
}

// Rank 0 owns the outputs, then looks for the checkpoint to go on from: no other job changes what
// is there, and no other rank may see it otherwise. Collective over world.
std::optional<std::filesystem::path> choose_checkpoint(const config::Config& config,
                                                       TrainOutputs& outputs,
                                                       const comm::Communicator& world) {
  std::string chosen;
  world.together("claim the outputs", [&] {
    if (world.is_root()) {
      at_start([&] { outputs.claim(config); });
      chosen = train::checkpoint_to_resume(config.checkpoint).value_or("").string();
    }
  });
  world.broadcast(chosen, 0);
  return chosen.empty() ? std::nullopt : std::optional<std::filesystem::path>(chosen);
}

// Keeps parameters, moments and step of the checkpoint, and continues with the data after the bad
// step.
void continue_behind(const train::Rollback& rollback, train::Progress& progress) {
  const std::string message =
      fmt::format("{}; went back to {} and left out the samples {}:{}", rollback.reason,
                  rollback.checkpoint.string(), progress.cursor, rollback.cursor);
  progress.cursor = rollback.cursor;
  progress.notes = {{"rollback", message}};
  log::warn(message);
}

// The checkpoint has all but the new experts, and what was done becomes an event.
void continue_changed(const train::ExpertChange& wanted, const checkpoint::PoolChange& change,
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
  checkpoint::Catalog catalog;
  checkpoint::read_once(catalog, world, "read the config",
                        [&] { inputs = read_train_inputs(parsed, world.size(), catalog); });
  world.together("look for targets", [&] {
    if (world.is_root()) {
      check_targets(inputs);
    }
  });
  const train::RunData data = train::data_of(inputs.corpora);
  watchdog.loading();
  auto task_index = data::TaskIndex::make(inputs.corpora, inputs.config.data.task_weights, world);
  TrainOutputs outputs;
  Origin origin{.resume = choose_checkpoint(inputs.config, outputs, world)};
  comm::Facts facts;
  checkpoint::read_once(catalog, world, "read the checkpoint", [&] {
    adopt_origin(inputs, data, catalog, origin);
    facts = facts_of(inputs.config);
    if (origin.source != nullptr) {
      facts.push_back(fact_of(*origin.source));
    }
  });
  comm::check_same(facts, world);
  comm::agree_to_go_on("loading", world);
  watchdog.loading();
  config::Config& config = inputs.config;
  data::Corpora& corpora = inputs.corpora;
  data::Corpora& eval_corpora = inputs.eval_corpora;
  const std::int64_t last_that_stays = last_that_counts(config.checkpoint, origin);
  world.together("check the outputs", [&] {
    if (world.is_root()) {
      TrainOutputs::check(config, world.size(), corpora, last_that_stays);
    }
  });
  comm::Mesh mesh = engine::make_mesh(config, world.ledger());
  const Threads threads = choose_threads(config.run, mesh.node);
  config.run.threads = threads.count;
  show_table(config, mesh, threads, corpora);
  if (!task_index.empty()) {
    log::info("samples by task: " + task_index.text());
  }

  std::optional<engine::Instance> instance;
  const auto load = [&](const checkpoint::PoolChange* change) {
    instance.emplace(config, mesh, engine::Use::kTraining);
    load_start(config, *instance, origin, watchdog, change);
    corpora.join_tasks(origin.progress.tasks);
    eval_corpora.join_tasks(origin.progress.tasks);
  };
  std::map<std::string, std::string> sidecars;  // on rank 0
  world.together("set up the model", [&] {
    if (world.is_root() && origin.source != nullptr) {
      if (!origin.resume) {
        check_folder(*origin.source, world);
      }
      sidecars = sidecar_texts(origin.source->path(), corpora.info(0));
    }
    load(nullptr);
  });
  comm::agree_to_go_on("loading", world);
  const std::int64_t last_step = config::total_steps(config);
  train::Progress& progress = origin.progress;
  const auto show_resume = [&] {
    if (origin.resume) {
      log::info(fmt::format("resume from {} (step {} of {}, next sample {})",
                            origin.resume->string(), progress.step, last_step, progress.cursor));
    }
  };
  bool begun = false;
  const auto begin = [&] {
    world.together("create the outputs", [&] {
      if (world.is_root() && !std::exchange(begun, true)) {
        at_start([&] { TrainOutputs::begin(config, last_that_stays); });
        show_resume();
      }
    });
  };
  train::Outcome outcome;
  if (progress.step >= last_step && !progress.evaluation_due) {
    show_resume();
    log::info(fmt::format("already at step {} of {}: nothing to do", progress.step, last_step));
  } else {
    train::SavePolicy policy(
        config, last_step, progress.save_seconds,
        train::expected_save_seconds(plan::estimate(config, world.size()).checkpoint_bytes,
                                     world.size()));
    if (policy.out_of_time()) {
      log::warn(
          "run.max_wall or the job's time limit leaves time for one step: a minute and twice "
          "the time of a save are kept for saving. Give the job more time");
    }
    const auto run = [&](std::int64_t rollbacks) {
      catalog = {};  // its manifests may be large
      origin.source = nullptr;
      return train::run({.config = config,
                         .instance = *instance,
                         .corpora = corpora,
                         .task_index = task_index,
                         .eval_corpora = eval_corpora,
                         .data = data,
                         .progress = progress,
                         .checkpoint = origin.resume,
                         .sidecars = sidecars,
                         .rollbacks = rollbacks,
                         .on_opened = begin,
                         .policy = policy,
                         .watchdog = watchdog});
    };
    const auto start_again = [&] {
      checkpoint::read_once(catalog, world, "start again from a checkpoint", [&] {
        origin.source = &catalog.model(*origin.resume);
        progress = train::from_state(origin.source->checkpoint()->state());
        add_special(corpora.info(0), progress.special);
        adopt_pool(*origin.source, config);
      });
      world.together("start again from a checkpoint", [&] {
        std::optional<checkpoint::PoolChange> change;
        std::string refused;
        if (outcome.experts) {
          try {
            change = adopt_change(*origin.source, outcome.experts->requests, config);
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
    };
    std::int64_t rollbacks = config.train.rollbacks;
    outcome = run(rollbacks);
    while (outcome.rollback || outcome.experts) {
      origin.resume = outcome.rollback ? outcome.rollback->checkpoint : outcome.experts->checkpoint;
      instance.reset();  // the experts may be others
      try {
        start_again();
      } catch (const comm::AgreedError& error) {
        if (error.code() != Exit::kTerminated) {
          throw;
        }
        log::info(
            fmt::format("asked to stop while it started again from {}: the same command goes "
                        "on there",
                        origin.resume->string()));
        outcome = {.exit = Exit::kStopped};
        break;
      }
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
