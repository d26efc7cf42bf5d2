#include "train/loop.h"

#include <fmt/format.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "base/log.h"
#include "base/text.h"
#include "comm/stop.h"
#include "config/validate.h"
#include "io/checkpoint.h"
#include "model/storage.h"
#include "train/batches.h"
#include "train/evaluation.h"
#include "train/optimizer.h"
#include "train/recorder.h"
#include "train/save_policy.h"
#include "train/schedule.h"
#include "train/step.h"

namespace moesaic::train {
namespace {

constexpr double kSaveLimit = 3600.0;  // seconds until the watchdog ends the job

// What to do about numbers that went bad.
std::string way_out(const config::Config& config) {
  const auto good = config.checkpoint.dir.empty() ? std::vector<std::filesystem::path>{}
                                                  : io::complete_checkpoints(config.checkpoint.dir);
  return fmt::format("; {}: lower train.lr or train.clip, or raise train.warmup",
                     good.empty() ? "there is no checkpoint yet"
                                  : "the last good checkpoint is " + good.back().string());
}

class Loop {
 public:
  explicit Loop(const Start& start);
  ~Loop() { watchdog_.follow(nullptr); }
  Loop(const Loop&) = delete;
  Loop& operator=(const Loop&) = delete;
  Exit run();

 private:
  StepResult step();
  double forward_backward_all(StepBatches& batches, std::int64_t targets);
  void sum_over_ranks(StepResult& result, double nats);
  void update_biases();
  void evaluate();
  bool save();
  /// Whether any rank was asked to stop, and whether rank 0's clock wants a save. Collective.
  struct Votes {
    bool stop = false, save = false;
  };
  Votes vote();

  const Start& start_;
  const config::Config& config_;
  model::Instance& instance_;
  const comm::Communicator& world_;
  Progress progress_;
  const std::int64_t last_step_;
  const std::int64_t step_tokens_;
  comm::StopSignal signal_;
  SavePolicy policy_;
  model::Context ctx_;
  model::MoeStats stats_;
  std::vector<double> task_tokens_;
  Batches batches_;
  Recorder recorder_;
  comm::Watchdog& watchdog_;
  int failed_saves_ = 0;
};

Loop::Loop(const Start& start)
    : start_(start),
      config_(start.config),
      instance_(start.instance),
      world_(instance_.mesh.world),
      progress_(start.progress),
      last_step_(config::total_steps(config_)),
      step_tokens_(config_.train.batch * config_.data.seq_len),
      policy_(config_, last_step_),
      ctx_(instance_.context()),
      stats_(std::ssize(instance_.transformer.moe_layers()), config_.model.experts,
             std::ssize(progress_.tasks)),
      task_tokens_(progress_.tasks.size(), 0.0),
      batches_(start.corpora, start.task_index, config_, instance_.mesh.replicas, progress_.cursor),
      recorder_(config_, instance_, progress_,
                (start.eval_corpora.size() > 0 ? start.eval_corpora : start.corpora).names(),
                start.resumed, last_step_),
      watchdog_(start.watchdog) {
  ctx_.stats = &stats_;
  ctx_.step_tokens = step_tokens_;
  if (!progress_.note.empty()) {
    recorder_.event(progress_.step, "config_changed", progress_.note);
  }
  watchdog_.follow(&instance_.clock);
}

double Loop::forward_backward_all(StepBatches& batches, std::int64_t targets) {
  zero_gradients(instance_);
  double nats = 0.0;
  for (const std::vector<float>& logprob :
       forward_backward(instance_, ctx_, batches.rounds, 1.0 / static_cast<double>(targets))) {
    for (const float p : logprob) {
      nats -= static_cast<double>(p);
    }
  }
  for (const model::MicroBatch& batch : batches.rounds) {
    for (const std::uint8_t task : batch.task) {
      task_tokens_[task] += 1.0;
    }
  }
  return instance_.mesh.speaks() ? nats : 0.0;
}

// The step's sums over all micro-batches: losses, counts of experts and tasks. Collective.
void Loop::sum_over_ranks(StepResult& result, double nats) {
  result.lm_loss = world_.all_reduce(nats, comm::Reduce::kSum) /
                   static_cast<double>(std::max<std::int64_t>(1, result.targets));
  world_.all_reduce(stats_.all(), comm::Reduce::kSum);
  instance_.mesh.replicas.all_reduce(std::span(task_tokens_), comm::Reduce::kSum);
  result.loss = result.lm_loss;
  for (std::int64_t layer = 0; layer < stats_.layers(); ++layer) {
    const auto tokens = static_cast<double>(step_tokens_);
    result.loss += config_.router.aux_loss * stats_.sums(layer)[0] / tokens +
                   config_.router.z_loss * stats_.sums(layer)[1] / tokens;
  }
}

// DeepSeek-V3, section 2.1.2: experts with less than their share become likelier choices.
void Loop::update_biases() {
  for (std::int64_t layer = 0; layer < stats_.layers(); ++layer) {
    const model::Router* router = instance_.transformer.router(layer);
    model::Parameter* bias = router != nullptr ? router->bias() : nullptr;
    if (bias == nullptr) {
      continue;
    }
    std::vector<float> values = model::to_host_f32(*instance_.backend, bias->value);
    const auto chosen = stats_.chosen(layer);
    double mean = 0.0;
    for (const double n : chosen) {
      mean += n / static_cast<double>(chosen.size());
    }
    for (std::size_t e = 0; e < values.size(); ++e) {
      const double sign = mean > chosen[e] ? 1.0 : (mean < chosen[e] ? -1.0 : 0.0);
      values[e] += static_cast<float>(config_.router.bias_rate * sign);
    }
    instance_.backend->upload(std::as_bytes(std::span(values)), bias->value);
  }
}

StepResult Loop::step() {
  StepResult result{.step = progress_.step + 1, .tokens = step_tokens_};
  stats_.clear();
  std::fill(task_tokens_.begin(), task_tokens_.end(), 0.0);
  StepBatches batches;
  {
    const PhaseScope phase(instance_.clock, Phase::kData);
    batches = batches_.next();
  }
  result.targets = instance_.mesh.replicas.all_reduce(batches.counted, comm::Reduce::kSum);
  const double nats = forward_backward_all(batches, std::max<std::int64_t>(1, result.targets));
  result.lr = learning_rate(config_.train, result.step);
  sum_over_ranks(result, nats);
  const PhaseScope phase(instance_.clock, Phase::kOptimizer);
  result.grad_norm = gradient_norm(instance_);
  if (std::isfinite(result.grad_norm) && std::isfinite(result.loss)) {
    optimizer_step(instance_, config_.train, result.lr, result.step, result.grad_norm);
    update_biases();
  }
  return result;
}

void Loop::evaluate() {
  if (start_.eval_corpora.size() > 0) {
    const auto got_on = [this] { watchdog_.doing("evaluation"); };
    got_on();
    recorder_.add(train::evaluate(instance_, start_.eval_corpora, config_, progress_.tasks.size(),
                                  progress_.step, got_on));
  }
}

bool Loop::save() {
  const PhaseScope phase(instance_.clock, Phase::kCheckpoint);
  watchdog_.doing("a save", kSaveLimit);
  const Timer timer;
  recorder_.flush();
  std::vector<std::vector<float>> host;
  const auto blocks = model::blocks_to_save(instance_, host);
  const nlohmann::json state =
      to_state(progress_, config_, instance_.mesh.layout.text(), start_.corpora.vocab_sha256());
  std::vector<std::filesystem::path> copy;
  if (!start_.corpora.info(0).tokenizer.empty()) {
    copy.push_back(start_.corpora.info(0).tokenizer);
  }
  try {
    const auto path = io::save_checkpoint(
        {.dir = config_.checkpoint.dir, .step = progress_.step, .state = state, .copy = copy},
        blocks, world_);
    if (world_.is_root()) {
      io::prune_checkpoints(config_.checkpoint.dir, config_.checkpoint.keep,
                            config_.checkpoint.keep_every);
    }
    policy_.saved(timer.seconds());
    recorder_.event(progress_.step, "checkpoint",
                    fmt::format("{} in {:.1f} s", path.string(), timer.seconds()));
    log::debug(fmt::format("checkpoint {}", path.string()));
    failed_saves_ = 0;
    return true;
  } catch (const comm::AgreedError& error) {
    recorder_.event(progress_.step, "checkpoint_failed", error.what());
    log::warn(fmt::format("checkpoint of step {} failed: {}", progress_.step, error.what()));
    policy_.saved(timer.seconds());
    constexpr int kTolerated = 2;
    if (++failed_saves_ > kTolerated) {
      recorder_.close();
      throw;
    }
    return false;
  }
}

Loop::Votes Loop::vote() {
  const bool by_clock = world_.is_root() && policy_.out_of_time();
  std::vector<std::int32_t> flags = {signal_.requested() || by_clock ? 1 : 0,
                                     world_.is_root() && policy_.due(progress_.step) ? 1 : 0};
  world_.all_reduce(std::span(flags), comm::Reduce::kMax);
  return {.stop = flags[0] != 0, .save = flags[1] != 0};
}

Exit Loop::run() {
  instance_.clock.take();
  while (progress_.step < last_step_) {
    const Timer timer;
    watchdog_.step(progress_.step + 1);
    const StepResult result = step();
    const bool finite = std::isfinite(result.grad_norm) && std::isfinite(result.loss);
    if (finite) {
      progress_.step = result.step;
      progress_.cursor = batches_.cursor();
      progress_.tokens += result.tokens;
    }
    recorder_.add(result, stats_, task_tokens_);
    if (!finite) {
      const std::string message =
          fmt::format("step {}: loss {} with gradient norm {}; the parameters were not changed",
                      result.step, result.loss, result.grad_norm);
      recorder_.event(result.step, "bad_numbers", message);
      recorder_.close();
      throw comm::AgreedError(Exit::kBadNumbers, message + way_out(config_));
    }
    policy_.step_took(timer.seconds());
    const bool last = progress_.step == last_step_;
    if (last || (config_.eval.every > 0 && progress_.step % config_.eval.every == 0)) {
      evaluate();
    }
    const Votes votes = vote();
    const bool stop = votes.stop && !last;
    const bool wanted = votes.save || stop;
    const bool saved = wanted && !config_.checkpoint.dir.empty() && save();
    if (stop) {
      recorder_.event(progress_.step, "stopped",
                      saved ? "asked to stop; a checkpoint was saved" : "asked to stop");
      recorder_.close();
      log::info(fmt::format("stopped after step {} {}", progress_.step,
                            saved ? "with a checkpoint" : "without a checkpoint"));
      return saved ? Exit::kStopped : Exit::kTerminated;
    }
  }
  watchdog_.doing("the end");
  recorder_.close();
  return Exit::kDone;
}

}  // namespace

Exit run(const Start& start) { return Loop(start).run(); }

}  // namespace moesaic::train
