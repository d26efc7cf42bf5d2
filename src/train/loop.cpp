#include "train/loop.h"

#include <fmt/format.h>

#include <utility>

#include "base/log.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/load_weights.h"
#include "config/validate.h"
#include "train/control_file.h"
#include "train/evaluation.h"
#include "train/recorder.h"
#include "train/replica_check.h"
#include "train/spike_watch.h"
#include "train/step_texts.h"
#include "train/stepper.h"

namespace moesaic::train {
namespace {

class Loop {
 public:
  Loop(Session& session, SavePolicy& policy, std::int64_t rollbacks);
  ~Loop() { watchdog_.follow(nullptr); }
  Loop(const Loop&) = delete;
  Loop& operator=(const Loop&) = delete;
  Outcome run();

 private:
  data::StepBatches next_batches();
  StepResult step(data::StepBatches& batches);
  StepResult once_more(const data::StepBatches& batches, const StepResult& first);
  std::optional<Rollback> judge(const StepResult& result, const data::StepBatches& batches);
  void note_no_targets(const StepResult& result, const data::StepBatches& batches);
  void check_replicas();
  void evaluate();
  bool save();  // false: failed, or there is nowhere to save to
  /// Whether any rank was asked to stop or cannot record, whether rank 0's clock wants a save, and
  /// whether it sees work in run.control. Collective.
  struct Votes {
    std::int32_t stop = 0, save = 0, control = 0;
  };
  Votes vote();
  std::optional<ExpertChange> wanted_change();
  void mark_control();
  Exit stop(bool saved);
  void close();
  [[noreturn]] void fail(const comm::AgreedError& error);

  Session& session_;
  const config::Config& config_;
  engine::Instance& instance_;
  const comm::Communicator& world_;
  Progress progress_;
  std::filesystem::path newest_;  // checkpoint; empty: none yet
  const std::int64_t last_step_;
  SavePolicy& policy_;
  const std::int64_t rollbacks_;  // still allowed
  int stop_reason_ = 0;           // of the last vote
  Stepper stepper_;
  data::Batches batches_;
  Recorder recorder_;
  SpikeWatch spikes_;
  ControlFile control_;
  comm::Watchdog& watchdog_;
  std::int64_t compared_;  // the last step after which replicas were found alike
  int failed_saves_ = 0;
  bool said_no_targets_ = false;
};

Loop::Loop(Session& session, SavePolicy& policy, std::int64_t rollbacks)
    : session_(session),
      config_(session.config),
      instance_(*session.instance),
      world_(instance_.mesh.world),
      progress_(session.origin.progress),
      newest_(session.origin.resume.value_or("")),
      last_step_(config::total_steps(config_)),
      policy_(policy),
      rollbacks_(rollbacks),
      stepper_(config_, instance_, progress_.tasks.size()),
      batches_(session.samples, config_, instance_.mesh[comm::Group::kBatches], progress_.cursor),
      recorder_(config_, instance_, progress_,
                Recorder::names_of(session.corpora, session.eval_corpora),
                session.origin.resume.has_value(), last_step_),
      spikes_(config_.train.spike, progress_.losses),
      control_(config_.run.control),
      watchdog_(session.watchdog),
      compared_(progress_.step) {
  begin_outputs(session);
  for (const Note& note : progress_.notes) {
    recorder_.event(progress_.step, note.kind, note.message);
  }
  watchdog_.follow(&instance_.clock);
}

data::StepBatches Loop::next_batches() {
  const PhaseScope phase(instance_.clock, Phase::kData);
  return batches_.next();
}

// The same samples and parameters again: a slip of the hardware is gone then.
StepResult Loop::once_more(const data::StepBatches& batches, const StepResult& first) {
  const StepResult second = stepper_.compute(batches, first.step);
  if (second.finite()) {
    const std::string message = transient_text(first, second);
    recorder_.event(first.step, "transient_numbers", message);
    log::warn(fmt::format("step {}: {}", first.step, message));
  }
  return second;
}

// Numbers that are not finite twice leave the parameters as they are.
StepResult Loop::step(data::StepBatches& batches) {
  StepResult result = stepper_.compute(batches, progress_.step + 1);
  if (!result.finite()) {
    result = once_more(batches, result);
  }
  if (result.finite()) {
    stepper_.update(result);
    progress_.step = result.step;
    progress_.cursor = batches_.cursor();
    progress_.tokens += result.tokens;
  }
  recorder_.add(result, stepper_.stats(), stepper_.task_tokens());
  note_no_targets(result, batches);
  recorder_.add_routing(result, stepper_.routed(), batches);
  return result;
}

// Such a step measures nothing, and its loss of 0 is no loss. Said once, and always in the trace.
void Loop::note_no_targets(const StepResult& result, const data::StepBatches& batches) {
  if (result.targets > 0) {
    return;
  }
  const std::string message = no_targets_text(batches.samples);
  recorder_.event(result.step, "no_targets", message);
  if (!std::exchange(said_no_targets_, true)) {
    log::warn(fmt::format("step {}: {}", result.step, message));
  }
}

// What is wrong with a step becomes an event, and then a rollback or the end of the run.
std::optional<Rollback> Loop::judge(const StepResult& result, const data::StepBatches& batches) {
  std::string reason;
  if (!result.finite()) {
    reason = bad_numbers_text(result, batches.samples);
    recorder_.event(result.step, "bad_numbers", reason);
  } else if (result.targets == 0) {
    return std::nullopt;
  } else if (const auto median = spikes_.add(result.lm_loss)) {
    reason = spike_text(result, *median);
    const std::string message = reason + way_round(newest_, batches.samples);
    recorder_.event(result.step, "loss_spike", message);
    log::warn(message);
  }
  if (!reason.empty() && rollbacks_ > 0 && !newest_.empty()) {
    return Rollback{.checkpoint = newest_, .cursor = batches_.cursor(), .reason = reason};
  }
  if (!result.finite()) {
    fail({Exit::kBadNumbers, reason + way_out(newest_)});
  }
  return std::nullopt;
}

void Loop::check_replicas() {
  const std::int64_t every = config_.run.compare_replicas;
  if (every == 0 || progress_.step % every != 0) {
    return;
  }
  if (const auto found = compare_replicas(instance_)) {
    const std::string message = fmt::format(
        "step {}: {}; memory or a processor is suspect. Copies were last alike after step {}: "
        "resume from a checkpoint that was not saved later (checkpoint.resume=PATH), on other "
        "hosts; nothing was saved",
        progress_.step, found->message, compared_);
    recorder_.event(progress_.step, "replicas_differ", message);
    fail({Exit::kBadNumbers, message});
  }
  compared_ = progress_.step;
}

void Loop::evaluate() {
  progress_.evaluation_due = false;
  if (session_.eval_corpora.size() > 0) {
    watchdog_.iteration("evaluation");
    const auto row = train::evaluate(instance_, session_.eval_corpora, session_.eval_samples,
                                     config_, progress_.tasks.size(), progress_.step, [this] {
                                       watchdog_.iteration("evaluation");
                                       return vote().stop == 0;
                                     });
    progress_.evaluation_due = !row.has_value();
    if (row) {
      recorder_.add(*row);
    }
  }
}

bool Loop::save() {
  if (config_.checkpoint.dir.empty()) {
    return false;
  }
  const PhaseScope phase(instance_.clock, Phase::kCheckpoint);
  watchdog_.saving();
  const Timer timer;
  recorder_.flush();
  progress_.losses = spikes_.losses();
  progress_.save_seconds = policy_.measured_save();
  try {
    const auto path = train::save(session_, progress_, [this] { watchdog_.saving(); });
    newest_ = path;
    policy_.saved(timer.seconds());
    recorder_.event(progress_.step, "checkpoint",
                    fmt::format("{} in {:.1f} s", path.string(), timer.seconds()));
    log::debug(fmt::format("checkpoint {}", path.string()));
    failed_saves_ = 0;
    return true;
  } catch (const comm::AgreedError& error) {
    recorder_.event(progress_.step, "checkpoint_failed", error.what());
    log::warn(fmt::format("checkpoint of step {} failed: {}", progress_.step, error.what()));
    policy_.failed();
    constexpr int kTolerated = 2;
    if (++failed_saves_ > kTolerated || progress_.step == last_step_) {
      fail(error);
    }
    return false;
  }
}

Loop::Votes Loop::vote() {
  const bool root = world_.is_root();
  const std::string control = root ? control_.identity() : "";
  Votes votes = {.stop = stop_reason(recorder_.failed(), root && policy_.out_of_time()),
                 .save = root && policy_.due(progress_.step) ? 1 : 0,
                 .control = !control.empty() && control != progress_.control ? 1 : 0};
  world_.max({votes.stop, votes.save, votes.control});
  stop_reason_ = votes.stop;
  return votes;
}

// What run.control says, if it can be done and this step is saved. Collective.
std::optional<ExpertChange> Loop::wanted_change() {
  ExpertChange change;
  std::string text;
  if (world_.is_root()) {
    try {
      text = control_.text();
      change.control = control_.identity();
    } catch (const Error& error) {
      log::warn(error.what());
    }
  }
  world_.broadcast(text, 0);
  world_.broadcast(change.control, 0);
  if (change.control.empty()) {
    return std::nullopt;  // it could not be read: the next step looks again
  }
  try {
    change.requests = config::read_requests(text, config_.run.control);
    checkpoint::change_pools(config_, session_.gates, change.requests, {});
    if (config_.checkpoint.dir.empty()) {
      throw Error(Exit::kUsage, config_.run.control + " needs run.dir or checkpoint.dir");
    }
  } catch (const Error& error) {
    recorder_.event(progress_.step, "control_refused", error.what());
    log::warn(fmt::format("the run goes on with the experts it has: {}", error.what()));
    if (world_.is_root()) {
      control_.refuse();
    }
    return std::nullopt;
  }
  if (!save()) {
    return std::nullopt;  // the next step tries again
  }
  change.checkpoint = newest_;
  close();
  return change;
}

// Behind the first save with the new experts: a job that was killed before does it again.
void Loop::mark_control() {
  world_.together("mark run.control as done", [&] {
    if (world_.is_root() && control_.identity() == progress_.control) {
      control_.done();
    }
  });
  progress_.control.clear();
}

// What could not be recorded ends the run, but not before its work is saved.
void Loop::close() {
  try {
    recorder_.close();
  } catch (const comm::AgreedError& error) {
    throw comm::AgreedError(
        error.code(),
        fmt::format("{}. {}", error.what(),
                    newest_.empty() ? "Nothing was saved"
                                    : "The newest checkpoint is " + newest_.string()));
  }
}

// A second error behind the first one is only said.
void Loop::fail(const comm::AgreedError& error) {
  try {
    recorder_.close();
  } catch (const comm::AgreedError& other) {
    log::warn(other.what());
  }
  throw comm::AgreedError(error);
}

Exit Loop::stop(bool saved) {
  const std::string how = stop_text(stop_reason_, saved);
  recorder_.event(progress_.step, "stopped", how);
  close();
  log::info(fmt::format("stopped after step {} {}", progress_.step, how));
  return saved ? Exit::kStopped : Exit::kTerminated;
}

Outcome Loop::run() {
  instance_.clock.take();
  if (progress_.evaluation_due) {
    evaluate();
    if (progress_.evaluation_due) {
      return {.exit = stop(false)};  // it is still due in the checkpoint that there is
    }
    save();  // so that it is not due again
  }
  if (vote().control != 0) {  // before a step, as the job did that was killed
    if (auto change = wanted_change()) {
      return {.experts = std::move(change)};
    }
  }
  while (progress_.step < last_step_) {
    const Timer timer;
    watchdog_.step(progress_.step + 1);
    data::StepBatches batches = next_batches();
    const StepResult result = step(batches);
    if (auto rollback = judge(result, batches)) {
      close();
      return {.exit = Exit::kBadNumbers, .rollback = std::move(rollback)};
    }
    check_replicas();
    policy_.step_took(timer.seconds());
    const bool last = progress_.step == last_step_;
    if (last || (config_.eval.every > 0 && progress_.step % config_.eval.every == 0)) {
      evaluate();
    }
    const Votes votes = vote();
    const bool asked = votes.stop != 0 && (!last || progress_.evaluation_due);
    const bool changed = !progress_.control.empty();
    const bool saved = (votes.save != 0 || asked || changed) && save();
    if (saved && changed) {
      mark_control();
    }
    if (asked) {
      return {.exit = stop(saved)};
    }
    if (votes.control != 0 && !last) {
      if (auto change = wanted_change()) {
        return {.experts = std::move(change)};
      }
    }
  }
  watchdog_.iteration("the end");
  close();
  return {};
}

}  // namespace

Outcome run_loop(Session& session, SavePolicy& policy, std::int64_t rollbacks) {
  if (session.origin.resume) {
    Recorder::check(session.config, *session.instance, session.origin.progress,
                    Recorder::names_of(session.corpora, session.eval_corpora));
  }
  return Loop(session, policy, rollbacks).run();
}

}  // namespace moesaic::train
