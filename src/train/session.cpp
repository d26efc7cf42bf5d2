#include "train/session.h"

#include <fmt/format.h>

#include <utility>

#include "base/log.h"
#include "base/text.h"
#include "checkpoint/gate_state.h"
#include "checkpoint/load_weights.h"
#include "config/validate.h"
#include "train/control_file.h"
#include "train/loop.h"

namespace moesaic::train {
namespace {

void show_resume(const Session& session) {
  const Progress& progress = session.origin.progress;
  if (session.origin.resume) {
    log::info(fmt::format("resume from {} (step {} of {}, next sample {})",
                          session.origin.resume->string(), progress.step,
                          config::total_steps(session.config), progress.cursor));
  }
}

// Keeps parameters, moments and step of the checkpoint, and continues with the data after the bad
// step.
void continue_behind(const Rollback& rollback, Progress& progress) {
  const std::string message =
      fmt::format("{}; went back to {} and left out the samples {}:{}", rollback.reason,
                  rollback.checkpoint.string(), progress.cursor, rollback.cursor);
  progress.cursor = rollback.cursor;
  progress.notes = {{"rollback", message}};
  log::warn(message);
}

// The checkpoint has all but the new experts, and what was done becomes an event.
void continue_changed(const ExpertChange& wanted, const checkpoint::PoolChange& change,
                      Progress& progress) {
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
void continue_unchanged(const std::string& reason, Session& session) {
  session.origin.progress.notes.push_back({"control_refused", reason});
  log::warn(fmt::format("the run goes on with the experts it has: {}", reason));
  if (session.mesh.world.is_root()) {
    ControlFile(session.config.run.control).refuse();
  }
}

// Loads the origin with other experts, or, where that cannot be done, as it is. Not collective.
void load_changed(const ExpertChange& wanted, Session& session) {
  std::optional<checkpoint::PoolChange> change;
  std::string refused;
  try {
    change = checkpoint::change_gates(*session.origin.source, wanted.requests, session.config,
                                      session.gates);
  } catch (const Error& error) {
    if (error.code() != Exit::kUsage) {  // a file that this rank cannot read
      throw;
    }
    refused = error.what();
  }
  load(session, change ? &*change : nullptr);
  if (change) {
    continue_changed(wanted, *change, session.origin.progress);
  } else {
    continue_unchanged(refused, session);
  }
}

// From the checkpoint that the outcome names, with all that the run had there. Collective.
void start_again(const Outcome& outcome, Session& session) {
  constexpr const char* kWhat = "start again from a checkpoint";
  const comm::Communicator& world = session.mesh.world;
  Origin& origin = session.origin;
  checkpoint::read_once(session.catalog, world, kWhat, [&] {
    origin.source = &session.catalog.model(*origin.resume);
    origin.source->keep_adapters_apart();
    origin.progress = from_state(origin.source->checkpoint()->state());
    add_special(session.corpora.info(0), origin.progress.special);
    std::vector<std::string> tasks = std::move(session.gates.tasks);  // of this run
    session.gates = checkpoint::gates_of(*origin.source, session.config);
    session.gates.tasks = std::move(tasks);
  });
  world.together(kWhat, [&] {
    if (outcome.experts) {
      load_changed(*outcome.experts, session);
    } else {
      load(session);
      continue_behind(*outcome.rollback, origin.progress);
    }
  });
}

}  // namespace

void load(Session& session, const checkpoint::PoolChange* change) {
  Origin& origin = session.origin;
  engine::Instance& instance =
      session.instance.emplace(session.config, session.mesh, engine::Use::kTraining, session.gates);
  if (origin.source == nullptr) {
    instance.parameters.initialise(*instance.backend, session.config.train.seed);
  } else {
    checkpoint::load_parameters(instance, *origin.source,
                                origin.resume ? checkpoint::Load::kAll : checkpoint::Load::kValues,
                                comm::on_loading(session.watchdog), change);
  }
  session.corpora.join_tasks(origin.progress.tasks);
  session.eval_corpora.join_tasks(origin.progress.tasks);
}

namespace {

// Whether frozen tensors are copied from the origin with each save.
bool copies_base(const Session& session) {
  return session.instance->parameters.roles().freezes() &&
         session.config.checkpoint.content == config::Content::kAll;
}

// The newest checkpoint is what frozen tensors are copied from next: the one that the run went on
// from may be removed. Collective over the mesh.
void follow_base(Session& session, const std::filesystem::path& newest) {
  if (!session.origin.resume || !copies_base(session)) {
    return;
  }
  checkpoint::Catalog catalog;
  try {
    checkpoint::read_once(catalog, session.mesh.world, "read the checkpoint",
                          [&] { catalog.model(newest).keep_adapters_apart(); });
  } catch (const comm::AgreedError& error) {
    log::warn(fmt::format("frozen tensors are still copied from {}: {}",
                          session.origin.source->path().string(), error.what()));
    return;
  }
  session.catalog = std::move(catalog);
  session.origin.source = &session.catalog.model(newest);
}

}  // namespace

std::filesystem::path save(Session& session, const Progress& progress,
                           const std::function<void()>& on_progress) {
  const config::Checkpoint& wanted = session.config.checkpoint;
  std::vector<checkpoint::BlockToSave> blocks;
  session.mesh.world.together("look at the base", [&] {
    blocks = checkpoint::blocks_to_save(*session.instance,
                                        {.saved = wanted.content == config::Content::kAll,
                                         .base = session.origin.source,
                                         .seed = session.config.train.seed});
  });
  const auto state =
      to_state(progress, session.config, session.gates, session.mesh.layout.text(), session.data);
  std::vector<std::filesystem::path> copy;
  if (!session.corpora.info(0).tokenizer.empty()) {
    copy.push_back(session.corpora.info(0).tokenizer);
  }
  std::filesystem::path saved = checkpoint::save_checkpoint({.dir = wanted.dir,
                                                             .step = progress.step,
                                                             .state = *state,
                                                             .copy = copy,
                                                             .texts = session.sidecars,
                                                             .on_progress = on_progress},
                                                            blocks, session.mesh.world);
  follow_base(session, saved);
  if (session.mesh.world.is_root()) {
    checkpoint::prune_checkpoints(wanted.dir, wanted.keep, wanted.keep_every);
  }
  return saved;
}

void begin_outputs(Session& session) {
  const comm::Communicator& world = session.mesh.world;
  world.together("create the outputs", [&] {
    if (world.is_root() && session.on_begin) {
      std::exchange(session.on_begin, {})();
      show_resume(session);
    }
  });
}

Exit run(Session& session) {
  const Progress& progress = session.origin.progress;
  const std::int64_t last_step = config::total_steps(session.config);
  if (progress.step >= last_step && !progress.evaluation_due) {
    show_resume(session);
    log::info(fmt::format("already at step {} of {}: nothing to do", progress.step, last_step));
    return Exit::kDone;
  }
  SavePolicy policy(session.config, last_step, progress.save_seconds,
                    expected_save_seconds(session.checkpoint_bytes, session.mesh.world.size()));
  if (policy.out_of_time()) {
    log::warn(
        "run.max_wall or the job's time limit leaves time for one step: a minute and twice "
        "the time of a save are kept for saving. Give the job more time");
  }
  std::int64_t rollbacks = session.config.train.rollbacks;
  const auto run_once = [&] {
    if (!copies_base(session)) {
      session.catalog = {};  // its manifests may be large
      session.origin.source = nullptr;
    }
    return run_loop(session, policy, rollbacks);
  };
  Outcome outcome = run_once();
  while (outcome.rollback || outcome.experts) {
    std::optional<std::filesystem::path>& resume = session.origin.resume;
    resume = outcome.rollback ? outcome.rollback->checkpoint : outcome.experts->checkpoint;
    session.instance.reset();  // the experts may be others
    try {
      start_again(outcome, session);
    } catch (const comm::AgreedError& error) {
      if (error.code() != Exit::kTerminated) {
        throw;
      }
      log::info(
          fmt::format("asked to stop while it started again from {}: the same command goes on "
                      "there",
                      resume->string()));
      return Exit::kStopped;
    }
    rollbacks -= outcome.rollback ? 1 : 0;
    outcome = run_once();
  }
  return outcome.exit;
}

}  // namespace moesaic::train
