#include "infer/scorer.h"

#include <fmt/format.h>

#include <cmath>

#include "base/log.h"
#include "base/timer.h"
#include "comm/stop.h"
#include "config/wall_time.h"
#include "infer/score_part.h"
#include "infer/score_recorder.h"
#include "io/hdf5_thread.h"

namespace moesaic::infer {
namespace {

/// One shard on its way: the same on every rank.
struct Work {
  std::int64_t shard = 0;
  io::ShardDocuments documents;
  std::vector<WindowBatch> batches;

  // A round past the end, and a rank without a batch in the last round, compute an empty one.
  const WindowBatch& batch(std::int64_t j) const {
    static const WindowBatch none;
    return j < std::ssize(batches) ? batches[static_cast<std::size_t>(j)] : none;
  }
};

/// The batches first, first + every, ... of a shard; reads one ahead. Past the end they are empty.
class BatchSource {
 public:
  BatchSource(ScoreCorpora& corpora, const Work& work, std::int64_t first, std::int64_t every)
      : corpora_(corpora), work_(work), every_(every), at_(first), next_(read()) {}
  ~BatchSource() {
    if (next_.valid()) {
      next_.wait();  // it refers to the shard
    }
  }
  BatchSource(const BatchSource&) = delete;
  BatchSource& operator=(const BatchSource&) = delete;

  model::MicroBatch next() {
    model::MicroBatch batch = next_.get();
    at_ += every_;
    next_ = read();
    return batch;
  }

 private:
  std::future<model::MicroBatch> read() {
    return io::hdf5_async([this, &windows = work_.batch(at_)] {
      const auto tokens = corpora_.tokens(work_.shard, windows, work_.documents.offsets);
      return to_micro_batch(windows, tokens, work_.documents.task);
    });
  }

  ScoreCorpora& corpora_;
  const Work& work_;
  std::int64_t every_, at_;
  std::future<model::MicroBatch> next_;
};

/// The scores of a batch's targets, in its order.
struct BatchScores {
  std::vector<float> logprob;
  std::vector<std::uint8_t> likeliest;
};

class Scorer {
 public:
  Scorer(const ScoreJob& job, std::int64_t last_step, double all_tokens);
  ScoreResult run(const std::vector<std::uint8_t>& done);

 private:
  Work open(std::int64_t shard);
  bool score(const Work& work);  // false: stopped before its end
  BatchScores forward(const model::MicroBatch& batch);
  void end_round(const model::MicroBatch& batch, const BatchScores& scores, std::int64_t shard);

  const ScoreJob& job_;
  model::Instance& instance_;
  const comm::Communicator& world_;
  const comm::Communicator& replicas_;
  const WindowRules rules_;
  comm::StopSignal signal_;
  Timer since_start_;
  const double wall_;
  model::Context ctx_;
  model::MoeStats stats_;
  ScoreRecorder recorder_;
  double waited_ = 0.0;  // seconds of this round in the control plane
  bool stopping_ = false;
};

Scorer::Scorer(const ScoreJob& job, std::int64_t last_step, double all_tokens)
    : job_(job),
      instance_(job.instance),
      world_(instance_.mesh.world),
      replicas_(instance_.mesh.replicas),
      rules_{job.config.score.window, job.config.score.stride,
             job.config.score.truncate == config::Truncate::kLeft},
      wall_(config::wall_seconds(job.config.run)),
      ctx_(instance_.context()),
      stats_(std::ssize(instance_.transformer.moe_layers()), job.config.model.experts,
             std::ssize(job.corpora.tasks())),
      recorder_(job.config, instance_, job.corpora, last_step, all_tokens) {
  ctx_.stats = &stats_;
  ctx_.dropless = !job.config.router.eval_capacity;
}

Work Scorer::open(std::int64_t shard) {
  Work work;
  work.shard = shard;
  world_.together("open a shard", [&] {
    work.documents = io::hdf5_run([&] { return job_.corpora.documents(shard); });
    work.batches = pack(work.documents, rules_);
  });
  return work;
}

BatchScores Scorer::forward(const model::MicroBatch& batch) {
  model::set_batch(ctx_, batch);
  const Tensor hidden = instance_.transformer.forward(ctx_, nullptr);
  const PhaseScope phase(instance_.clock, Phase::kForward);
  const model::Head::LogProbs rows = instance_.transformer.head().log_probs(ctx_, hidden);
  BatchScores scores;
  for (std::size_t i = 0; i < batch.target.size(); ++i) {
    if (batch.target[i] >= 0) {
      scores.logprob.push_back(rows.logprob[i]);
      scores.likeliest.push_back(rows.best[i] == batch.target[i] ? 1 : 0);
    }
  }
  return scores;
}

// Collective: sums the round over the ranks, records it, and votes on stopping.
void Scorer::end_round(const model::MicroBatch& batch, const BatchScores& scores,
                       std::int64_t shard) {
  RoundSums sums;
  sums.task_tokens.assign(job_.corpora.tasks().size(), 0.0);
  for (const float p : scores.logprob) {
    sums.nats -= static_cast<double>(p);
  }
  for (const std::uint8_t task : batch.task) {
    sums.task_tokens[task] += 1.0;
  }
  const double margin = recorder_.longest_round() + 60.0;
  const bool late = wall_ >= 0.0 && since_start_.seconds() + margin >= wall_;
  std::vector<double> values = {sums.nats, static_cast<double>(batch.size()),
                                static_cast<double>(scores.logprob.size()),
                                signal_.requested() || late ? 1.0 : 0.0};
  const Timer timer;
  replicas_.all_reduce(std::span(values), comm::Reduce::kSum);
  waited_ += timer.seconds();
  replicas_.all_reduce(std::span(sums.task_tokens), comm::Reduce::kSum);
  replicas_.all_reduce(stats_.all(), comm::Reduce::kSum);
  sums.nats = values[0];
  sums.tokens = values[1];
  sums.targets = values[2];
  stopping_ = stopping_ || values[3] > 0.0;
  if (!std::isfinite(sums.nats)) {
    recorder_.close();
    throw comm::AgreedError(
        Exit::kBadNumbers,
        fmt::format("{}: the model gives log-probabilities that are no numbers in batch {}: its "
                    "weights are bad, or run.precision is too low for it",
                    job_.corpora.info(shard).file.string(), recorder_.step() + 1));
  }
  recorder_.add(sums, stats_, waited_, shard);
  waited_ = 0.0;
  stats_.clear();
}

bool Scorer::score(const Work& work) {
  const std::int64_t width = replicas_.size();
  const std::int64_t rounds = (std::ssize(work.batches) + width - 1) / width;
  const auto writer = static_cast<int>(work.shard % world_.size());
  std::optional<ScorePart> part;
  world_.together("create a part of the scores", [&] {
    if (world_.rank() == writer) {
      part.emplace(job_.output, work.shard, work.documents);
    }
  });
  BatchSource source(job_.corpora, work, replicas_.rank(), width);
  for (std::int64_t round = 0; round < rounds; ++round) {
    model::MicroBatch batch;
    {
      const PhaseScope phase(instance_.clock, Phase::kData);
      batch = source.next();
    }
    const BatchScores mine = forward(batch);
    // In rank order, which is the order of the batches: the part grows at its end.
    const Timer timer;
    const auto logprob = replicas_.gather(std::span<const float>(mine.logprob), writer);
    waited_ += timer.seconds();
    const auto likeliest = replicas_.gather(std::span<const std::uint8_t>(mine.likeliest), writer);
    if (part) {
      WindowBatch windows;
      for (std::int64_t r = 0; r < width; ++r) {
        const WindowBatch& theirs = work.batch(round * width + r);
        windows.insert(windows.end(), theirs.begin(), theirs.end());
      }
      part->add(windows, logprob, likeliest);
    }
    end_round(batch, mine, work.shard);
    if (stopping_ && round + 1 < rounds) {
      return false;
    }
  }
  recorder_.flush();
  world_.together("finish a part of the scores", [&] {
    if (part) {
      part->finish(recorder_.step());
    }
  });
  return true;
}

ScoreResult Scorer::run(const std::vector<std::uint8_t>& done) {
  ScoreResult result;
  for (const std::int64_t shard : job_.shards) {
    if (done[static_cast<std::size_t>(shard)] != 0) {
      continue;
    }
    const Work work = open(shard);
    if (stopping_ || !score(work)) {
      result.stopped = true;
      recorder_.event("stopped", fmt::format("asked to stop in shard {}", shard));
      break;
    }
    ++result.new_parts;
    recorder_.event("shard", job_.output.part(shard).filename().string());
  }
  recorder_.close();
  return result;
}

}  // namespace

ScoreResult score_shards(const ScoreJob& job) {
  const comm::Communicator& world = job.instance.mesh.world;
  std::vector<std::uint8_t> done(static_cast<std::size_t>(job.corpora.shards()));
  std::int64_t last_step = 0;
  world.together("look for finished parts", [&] {
    if (world.is_root()) {
      done = job.output.parts_done();
      last_step = job.output.last_trace_step(job.shards);
    }
  });
  world.broadcast(std::span(done), 0);
  world.broadcast(std::span<std::int64_t>(&last_step, 1), 0);
  double tokens = 0.0;
  std::int64_t missing = 0;
  for (const std::int64_t shard : job.shards) {
    if (done[static_cast<std::size_t>(shard)] == 0) {
      tokens += static_cast<double>(job.corpora.info(shard).tokens);
      ++missing;
    }
  }
  if (missing == 0) {
    return {};
  }
  if (missing < std::ssize(job.shards)) {
    log::info(fmt::format("{} of {} shards are scored already", std::ssize(job.shards) - missing,
                          job.shards.size()));
  }
  return Scorer(job, last_step, tokens).run(done);
}

}  // namespace moesaic::infer
