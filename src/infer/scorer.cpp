#include "infer/scorer.h"

#include <fmt/format.h>

#include <cmath>

#include "base/log.h"
#include "base/timer.h"
#include "comm/stop.h"
#include "config/wall_time.h"
#include "data/prefetch.h"
#include "engine/pipeline.h"
#include "files/hdf5/thread.h"
#include "infer/iteration_recorder.h"
#include "infer/reference.h"
#include "infer/score_part.h"
#include "model/context_parallel.h"

namespace moesaic::infer {
namespace {

/// One shard on its way: the same on every rank.
struct Work {
  std::int64_t shard = 0;
  data::ShardDocuments documents;
  std::vector<data::WindowBatch> batches;

  // An iteration past the end, and a rank without a batch in the last iteration, compute an empty
  // one.
  const data::WindowBatch& batch(std::int64_t j) const {
    static const data::WindowBatch none;
    return j < std::ssize(batches) ? batches[static_cast<std::size_t>(j)] : none;
  }
};

/// The batches first, first + every, ... of a shard; reads one ahead. Past the end they are empty.
class BatchSource {
 public:
  BatchSource(data::Corpora& corpora, const Work& work, std::int64_t first, std::int64_t every)
      : corpora_(corpora), work_(work), every_(every), at_(first) {
    read_ahead();
  }

  data::MicroBatch next() {
    data::MicroBatch batch = next_.get();
    at_ += every_;
    read_ahead();
    return batch;
  }

 private:
  void read_ahead() {
    next_.start([this, &windows = work_.batch(at_)] {
      const auto tokens = corpora_.tokens(work_.shard, windows, work_.documents.offsets);
      return to_micro_batch(windows, tokens, work_.documents);
    });
  }

  data::Corpora& corpora_;
  const Work& work_;
  std::int64_t every_, at_;
  data::Prefetch<data::MicroBatch> next_;
};

/// The scores of a batch's targets, in its order.
struct BatchScores {
  record::TokenScores tokens;
  std::vector<std::uint8_t> is_argmax;
};

/// Collective over cp: what each rank says of its own rows becomes what one says of the batch.
void join_rows(const model::Context& ctx, bool compared, model::Head::Comparison& rows) {
  rows.own.logprob = model::of_all_rows(ctx, std::move(rows.own.logprob), 1);
  rows.own.best = model::of_all_rows(ctx, std::move(rows.own.best), 1);
  if (compared) {
    rows.reference.logprob = model::of_all_rows(ctx, std::move(rows.reference.logprob), 1);
    rows.reference.best = model::of_all_rows(ctx, std::move(rows.reference.best), 1);
    rows.divergence = model::of_all_rows(ctx, std::move(rows.divergence), 1);
  }
}

class Scorer {
 public:
  Scorer(const ScoreJob& job, std::int64_t last_step, double all_tokens);
  ~Scorer() { job_.watchdog.follow(nullptr); }
  Scorer(const Scorer&) = delete;
  Scorer& operator=(const Scorer&) = delete;
  ScoreResult run(const std::vector<std::uint8_t>& done);

 private:
  Work open(std::int64_t shard);
  void gather(const Work& work, std::int64_t first, const BatchScores& mine, int writer,
              std::optional<ScorePart>& part);
  bool score(const Work& work);  // false: stopped before its end
  void end(std::optional<ScorePart>& part, std::optional<std::int64_t> batches);
  // Whether this rank has the scores of its replica's batches.
  bool has_scores() const { return instance_.mesh.reports() && instance_.mesh.counts(); }
  BatchScores read_head(const data::MicroBatch& batch, std::size_t j, const Tensor& hidden);
  std::vector<BatchScores> forward(std::span<const data::MicroBatch> batches);
  void end_iteration(std::span<const data::MicroBatch> batches, std::span<const BatchScores> scores,
                     std::int64_t shard);

  const ScoreJob& job_;
  engine::Instance& instance_;
  const comm::Communicator& world_;
  const comm::Communicator& replicas_;
  const data::WindowRules rules_;
  Timer since_start_;
  const double wall_;
  model::Context ctx_;
  std::optional<ScoreReference> reference_;
  model::MoeStats stats_;
  IterationRecorder recorder_;
  bool stopping_ = false;
  bool failed_ = false;  // the trace: this shard is the last one
};

Scorer::Scorer(const ScoreJob& job, std::int64_t last_step, double all_tokens)
    : job_(job),
      instance_(job.instance),
      world_(instance_.mesh.world),
      replicas_(instance_.mesh[comm::Group::kBatches]),
      rules_{.window = job.config.score.window,
             .stride = job.config.score.stride,
             .last_only = job.config.score.truncate == config::Truncate::kLeft,
             .share = job.config.model.sliding_window == 0 && !job.config.router.eval_capacity &&
                      instance_.mesh[comm::Group::kCp].size() == 1,
             .batch = job.config.score.batch},
      wall_(config::wall_seconds(job.config.run)),
      ctx_(instance_.context()),
      stats_(std::ssize(instance_.transformer.moe_layers()), instance_.transformer.experts(),
             std::ssize(job.corpora.tasks()), job.config.model.top_k),
      recorder_(job.config, instance_, job.corpora, last_step, all_tokens) {
  job_.watchdog.follow(&instance_.clock);
  ctx_.observers = {stats_.observer()};
  ctx_.batch.dropless = !job.config.router.eval_capacity;
  if (job.reference != nullptr) {
    reference_.emplace(*job.reference, instance_, ctx_, job.config);
  }
}

Work Scorer::open(std::int64_t shard) {
  Work work;
  work.shard = shard;
  world_.together("open a shard", [&] {
    std::vector<std::uint8_t> repeats;
    files::hdf5_run([&] {
      work.documents = job_.corpora.documents(shard);
      if (rules_.share) {
        repeats = job_.corpora.repeated_contexts(shard, work.documents);
      }
    });
    work.batches = data::pack(work.documents, rules_, repeats);
  });
  return work;
}

// Collective over tp and cp: the scores of batch j of an iteration, on the one rank of its replica
// that reports; else none.
BatchScores Scorer::read_head(const data::MicroBatch& batch, std::size_t j, const Tensor& hidden) {
  const PhaseScope phase(instance_.clock, Phase::kForward);
  model::Head::Comparison rows;
  if (reference_) {
    rows = reference_->compare(ctx_, batch, j, hidden);
  } else {
    rows.own = instance_.transformer.head().log_probs(ctx_, hidden);
  }
  if (instance_.mesh.reports()) {
    join_rows(ctx_, reference_.has_value(), rows);
  }
  BatchScores scores;
  for (std::size_t i = 0; has_scores() && i < batch.target.size(); ++i) {
    if (batch.target[i] < 0) {
      continue;
    }
    scores.tokens.logprob.push_back(rows.own.logprob[i]);
    scores.is_argmax.push_back(rows.own.best[i] == batch.target[i] ? 1 : 0);
    if (reference_) {
      scores.tokens.reference_logprob.push_back(rows.reference.logprob[i]);
      scores.tokens.divergence.push_back(rows.divergence[i]);
      scores.tokens.agrees.push_back(rows.own.best[i] == rows.reference.best[i] ? 1 : 0);
    }
  }
  return scores;
}

// Collective over the mesh: the scores of each batch.
std::vector<BatchScores> Scorer::forward(std::span<const data::MicroBatch> batches) {
  std::vector<BatchScores> scores(batches.size());
  if (reference_) {
    reference_->forward(batches);
  }
  engine::forward_all(instance_, ctx_, batches, [&](std::size_t j, const Tensor& hidden) {
    scores[j] = read_head(batches[j], j, hidden);
  });
  if (reference_) {
    reference_->forward_layers(batches);
  }
  return scores;
}

// Collective: sums the iteration over the ranks, records it, and votes on stopping.
void Scorer::end_iteration(std::span<const data::MicroBatch> batches,
                           std::span<const BatchScores> scores, std::int64_t shard) {
  IterationSums sums;
  double reference_sum = 0.0;  // of divergences
  sums.task_tokens.assign(job_.corpora.tasks().size(), 0.0);
  for (std::size_t j = 0; has_scores() && j < batches.size(); ++j) {
    for (const float p : scores[j].tokens.logprob) {
      sums.nats -= static_cast<double>(p);
    }
    for (const float divergence : scores[j].tokens.divergence) {
      reference_sum += static_cast<double>(divergence);
    }
    for (const std::uint8_t task : batches[j].task) {
      sums.task_tokens[task] += 1.0;
    }
    sums.tokens += static_cast<double>(batches[j].size());
    sums.targets += static_cast<double>(scores[j].tokens.logprob.size());
  }
  const double margin = recorder_.longest_iteration() + 60.0;
  const bool late = wall_ >= 0.0 && since_start_.seconds() + margin >= wall_;
  double stop = comm::stop_requested() || late ? 1.0 : 0.0;
  double failed = recorder_.failed() ? 1.0 : 0.0;
  world_.sum({sums.nats, sums.tokens, sums.targets, stop, reference_sum, failed});
  world_.all_reduce(std::span(sums.task_tokens), comm::Reduce::kSum);
  stats_.resolve(ctx_);
  world_.all_reduce(stats_.all(), comm::Reduce::kSum);
  stopping_ = stopping_ || stop > 0.0;
  failed_ = failed > 0.0;
  if (!std::isfinite(sums.nats)) {
    recorder_.close();
    throw comm::AgreedError(
        Exit::kBadNumbers,
        fmt::format("{}: the model gives log-probabilities that are no numbers in batch {}: its "
                    "weights are bad, or run.precision is too low for it",
                    job_.corpora.shard_info(shard).file.string(), recorder_.step() + 1));
  }
  if (!std::isfinite(reference_sum)) {
    recorder_.close();
    throw comm::AgreedError(
        Exit::kBadNumbers,
        fmt::format("score.reference = {}: its probabilities are no numbers in batch {} of {}: its "
                    "weights are bad, or its precision is too low",
                    job_.config.score.reference, recorder_.step() + 1,
                    job_.corpora.shard_info(shard).file.string()));
  }
  sums.work = sums.tokens;
  recorder_.add(sums, stats_, fmt::format("shard={}/{}", shard + 1, job_.corpora.shards()));
  stats_.clear();
}

// Collective over the replicas: the scores of the batches first, first + 1, ... of all of them, in
// rank order, which is the order of the batches: the part grows at its end.
void Scorer::gather(const Work& work, std::int64_t first, const BatchScores& mine, int writer,
                    std::optional<ScorePart>& part) {
  const auto gathered = [&]<class T>(const std::vector<T>& values) {
    return replicas_.gather(std::span<const T>(values), writer);
  };
  record::TokenScores tokens{gathered(mine.tokens.logprob), {}, {}, {}};
  const auto is_argmax = gathered(mine.is_argmax);
  if (reference_) {
    tokens.reference_logprob = gathered(mine.tokens.reference_logprob);
    tokens.divergence = gathered(mine.tokens.divergence);
    tokens.agrees = gathered(mine.tokens.agrees);
  }
  if (part) {
    data::WindowBatch windows;
    for (std::int64_t r = 0; r < replicas_.size(); ++r) {
      const data::WindowBatch& theirs = work.batch(first + r);
      windows.insert(windows.end(), theirs.begin(), theirs.end());
    }
    part->add(windows, std::move(tokens), is_argmax);
  }
}

// The batches of an iteration go through the pipeline together, each rank's in turn.
bool Scorer::score(const Work& work) {
  const std::int64_t width = replicas_.size();
  const std::int64_t depth = instance_.mesh[comm::Group::kPp].size();
  const auto writer = static_cast<int>(work.shard % width);
  std::optional<ScorePart> part;
  world_.together("create a part of the scores", [&] {
    if (has_scores() && replicas_.rank() == writer) {
      part.emplace(job_.output, work.shard, work.documents, work.batches);
    }
  });
  const std::int64_t kept = world_.all_reduce(part ? part->batches_kept() : 0, comm::Reduce::kMax);
  const std::int64_t left = std::ssize(work.batches) - kept;
  const std::int64_t iterations = (left + width * depth - 1) / (width * depth);
  BatchSource source(job_.corpora, work, kept + replicas_.rank(), width);
  for (std::int64_t iteration = 0; iteration < iterations; ++iteration) {
    std::vector<data::MicroBatch> batches;
    job_.watchdog.step(recorder_.step() + 1);
    {
      const PhaseScope phase(instance_.clock, Phase::kData);
      while (std::ssize(batches) < depth) {
        batches.push_back(source.next());
      }
    }
    const std::vector<BatchScores> mine = forward(batches);
    for (std::int64_t j = 0; j < depth; ++j) {
      gather(work, kept + (iteration * depth + j) * width, mine[static_cast<std::size_t>(j)],
             writer, part);
    }
    end_iteration(batches, mine, work.shard);
    if (stopping_ && iteration + 1 < iterations) {
      end(part, kept + (iteration + 1) * depth * width);
      return false;
    }
  }
  end(part, std::nullopt);
  return true;
}

// Collective over the mesh: finishes a part, or keeps so many batches of it for the next job.
void Scorer::end(std::optional<ScorePart>& part, std::optional<std::int64_t> batches) {
  job_.watchdog.iteration("the end of a shard");
  recorder_.flush();
  const record::ReferenceDetails details =
      reference_ ? reference_->take_details() : record::ReferenceDetails();
  world_.together("write a part of the scores", [&] {
    if (part && batches) {
      part->keep(*batches, recorder_.step(), details);
    } else if (part) {
      part->finish(recorder_.step(), details);
    }
  });
}

std::int64_t without_targets(const data::ShardDocuments& documents) {
  std::int64_t count = 0;
  for (std::size_t d = 0; d + 1 < documents.offsets.size(); ++d) {
    count += documents.targets(d).empty() ? 1 : 0;
  }
  return count;
}

ScoreResult Scorer::run(const std::vector<std::uint8_t>& done) {
  ScoreResult result;
  for (const std::int64_t shard : job_.shards) {
    if (done[static_cast<std::size_t>(shard)] != 0) {
      continue;
    }
    if (failed_) {
      break;
    }
    job_.watchdog.iteration("the start of a shard");
    const Work work = open(shard);
    result.documents += std::ssize(work.documents.offsets) - 1;
    result.without_targets += without_targets(work.documents);
    const bool begin = !stopping_;
    if (!begin || !score(work)) {
      result.stopped = true;
      result.kept = begin;
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
      tokens += static_cast<double>(job.corpora.shard_info(shard).tokens);
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
