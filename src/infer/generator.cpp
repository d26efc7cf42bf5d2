#include "infer/generator.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <queue>

#include "base/error.h"
#include "base/log.h"
#include "base/timer.h"
#include "comm/stop.h"
#include "config/wall_time.h"
#include "engine/pipeline.h"
#include "files/hdf5/thread.h"
#include "infer/iteration_recorder.h"
#include "infer/part_queue.h"

namespace moesaic::infer {
namespace {

/// What an iteration did on this replica, but for what its micro-batches say.
struct IterationEnd {
  double nats = 0.0, sampled = 0.0;
  double skipped = 0.0;  // tokens that continuations which ended did not need
  double ended = 0.0;    // continuations
};

class Generator {
 public:
  Generator(const GenerateJob& job, std::vector<std::int64_t> parts, std::int64_t pages,
            std::int64_t last_step, double all_work, std::int64_t documents);
  ~Generator() { job_.watchdog.follow(nullptr); }
  Generator(const Generator&) = delete;
  Generator& operator=(const Generator&) = delete;
  GenerateResult run();

 private:
  void fetch(IterationEnd& end);
  std::vector<Sample> forward(const std::vector<std::vector<SequenceRun>>& parts,
                              std::span<const data::MicroBatch> batches);
  bool end_iteration(std::span<const data::MicroBatch> batches, IterationEnd end);
  std::int64_t write_parts();

  const GenerateJob& job_;
  engine::Instance& instance_;
  const comm::Communicator& world_;
  const Sampler sampler_;
  Timer since_start_;
  const double wall_;
  const model::PagedCache cache_;
  model::Context ctx_;
  model::MoeStats stats_;
  Scheduler scheduler_;
  PromptSource source_;
  OpenParts open_;
  std::map<std::int64_t, record::GenerationsPart> whole_;  // to be written
  IterationRecorder recorder_;
  std::int64_t documents_, ended_ = 0;  // of all ranks
  bool stopping_ = false, to_write_ = false;
};

Generator::Generator(const GenerateJob& job, std::vector<std::int64_t> parts, std::int64_t pages,
                     std::int64_t last_step, double all_work, std::int64_t documents)
    : job_(job),
      instance_(job.instance),
      world_(instance_.mesh.world),
      sampler_(job.config.generate),
      wall_(config::wall_seconds(job.config.run)),
      cache_(instance_.transformer.make_cache(instance_.context(), pages)),
      ctx_(instance_.context()),
      stats_(std::ssize(instance_.transformer.moe_layers()), instance_.transformer.experts(),
             std::ssize(job.corpora.tasks()), job.config.model.top_k),
      scheduler_(job.rules, pages),
      source_(job.prompts, std::move(parts)),
      recorder_(job.config, instance_, job.corpora, last_step, all_work),
      documents_(documents) {
  job_.watchdog.follow(&instance_.clock);
  ctx_.observers = {stats_.observer()};
  ctx_.batch.dropless = true;
  ctx_.batch.cache = &cache_;
}

// Lets more prompts wait while there is use for them. A part that has none to wait ends the
// iteration, so that it is written, and a stop is heard, before the next one is read.
void Generator::fetch(IterationEnd& end) {
  const PhaseScope phase(instance_.clock, Phase::kData);
  bool waits = true;
  while (waits && scheduler_.has_capacity() && !source_.is_empty()) {
    PromptSource::Part part = source_.next();
    waits = false;
    open_.open(part);
    for (data::Prompt& prompt : part.prompts) {
      if (std::ssize(prompt.tokens) < job_.rules.max_seq) {
        scheduler_.add(std::move(prompt));
        waits = true;
        continue;
      }
      end.ended += 1.0;  // there is no room for a token
      end.skipped += static_cast<double>(job_.rules.max_tokens + std::ssize(prompt.tokens));
      Sequence none(std::move(prompt), job_.rules);
      record::Continuation result = none.result();
      result.reason = record::EndReason::kMaxSeq;
      open_.add(none.prompt().document, result, none.text());
    }
  }
}

// Collective over the mesh: the samples of all runs that have one, on every rank of the replica.
// The last stage draws them, each rank of tp alike.
std::vector<Sample> Generator::forward(const std::vector<std::vector<SequenceRun>>& parts,
                                       std::span<const data::MicroBatch> batches) {
  std::vector<std::int32_t> token;
  std::vector<float> logprob;
  engine::forward_all(instance_, ctx_, batches, [&](std::size_t j, const Tensor& hidden) {
    const PhaseScope phase(instance_.clock, Phase::kForward);
    std::vector<const Sequence*> sequences;
    for (const SequenceRun& run : parts[j]) {
      if (run.samples()) {
        sequences.push_back(run.sequence);
      }
    }
    instance_.transformer.head().each_row(
        ctx_, hidden, sampled_rows(parts[j]), sampler_.wants_logits(),
        [&](std::size_t i, const model::Head::Peak& peak, std::span<const float> logits) {
          const data::Prompt& prompt = sequences[i]->prompt();
          const std::int64_t position = sequences[i]->tokens() - std::ssize(prompt.tokens);
          const Sample sample = sampler_.choose(peak, logits, prompt.document, position);
          token.push_back(sample.token);
          logprob.push_back(sample.logprob);
        });
  });
  std::size_t count = 0;
  for (const std::vector<SequenceRun>& part : parts) {
    count += sampled_rows(part).size();
  }
  token.resize(count);
  logprob.resize(count);
  const comm::Communicator& pp = instance_.mesh[comm::Group::kPp];
  pp.broadcast(std::span(token), pp.size() - 1);
  pp.broadcast(std::span(logprob), pp.size() - 1);
  std::vector<Sample> samples(count);
  for (std::size_t i = 0; i < count; ++i) {
    samples[i] = {token[i], logprob[i]};
  }
  return samples;
}

// Collective: sums the iteration over the ranks, records it, and votes on stopping and on writing.
// False: nothing is left to do on any rank.
bool Generator::end_iteration(std::span<const data::MicroBatch> batches, IterationEnd end) {
  const bool reports = instance_.mesh.reports();
  IterationSums sums;
  sums.task_tokens.assign(job_.corpora.tasks().size(), 0.0);
  for (std::size_t j = 0; reports && j < batches.size(); ++j) {
    for (const std::uint8_t task : batches[j].task) {
      sums.task_tokens[task] += 1.0;
    }
    sums.tokens += static_cast<double>(batches[j].size());
  }
  const double margin = recorder_.longest_iteration() + 60.0;
  const bool late = wall_ >= 0.0 && since_start_.seconds() + margin >= wall_;
  double busy = 0.0, to_write = 0.0;
  if (reports) {
    sums.nats = end.nats;
    sums.targets = end.sampled;
    busy = !scheduler_.is_idle() || !source_.is_empty() || !open_.is_empty() ? 1.0 : 0.0;
    to_write = whole_.empty() ? 0.0 : 1.0;
  } else {
    end = {};
  }
  double stop = comm::stop_requested() || late || recorder_.failed() ? 1.0 : 0.0;
  world_.sum({sums.nats, sums.targets, sums.tokens, end.ended, end.skipped, busy, to_write, stop});
  world_.all_reduce(std::span(sums.task_tokens), comm::Reduce::kSum);
  stats_.resolve(ctx_);
  world_.all_reduce(stats_.all(), comm::Reduce::kSum);
  sums.work = sums.tokens + end.skipped;
  ended_ += static_cast<std::int64_t>(end.ended);
  to_write_ = to_write > 0.0;
  stopping_ = stopping_ || stop > 0.0;
  if (!std::isfinite(sums.nats)) {
    recorder_.close();
    throw comm::AgreedError(
        Exit::kBadNumbers,
        fmt::format("{}: the model gives log-probabilities that are no numbers in batch {}: its "
                    "weights are bad, or run.precision is too low for it",
                    job_.config.model.path, recorder_.step() + 1));
  }
  recorder_.add(sums, stats_, fmt::format("prompts={}/{}", ended_, documents_));
  stats_.clear();
  return busy > 0.0;
}

// Collective over the mesh; returns how many parts all ranks have written.
std::int64_t Generator::write_parts() {
  job_.watchdog.iteration("the end of a part");
  recorder_.flush();
  std::int64_t written = 0;
  world_.together("write a part of the continuations", [&] {
    if (instance_.mesh.reports()) {
      for (const auto& [number, part] : whole_) {
        job_.output.write_part(number, part, recorder_.step());
        ++written;
      }
    }
    whole_.clear();
  });
  return world_.all_reduce(written, comm::Reduce::kSum);
}

// The runs of an iteration go through the pipeline as one micro-batch for each stage.
GenerateResult Generator::run() {
  GenerateResult result;
  for (bool busy = true; busy && !stopping_;) {
    job_.watchdog.iteration("an iteration");  // their lengths differ much
    IterationEnd end;
    fetch(end);
    const std::vector<SequenceRun> runs = scheduler_.plan();
    require(!runs.empty() || scheduler_.is_idle(), "no sequence has room in the cache");
    const std::vector<std::vector<SequenceRun>> parts =
        cut_runs(runs, instance_.mesh[comm::Group::kPp].size());
    std::vector<data::MicroBatch> batches(parts.size());
    for (std::size_t j = 0; j < parts.size(); ++j) {
      batches[j] = to_micro_batch(parts[j]);
    }
    const std::vector<Sample> samples = forward(parts, batches);
    for (const Sample& sample : samples) {
      end.nats -= static_cast<double>(sample.logprob);
      end.sampled += 1.0;
    }
    for (const auto& sequence : scheduler_.finish(runs, samples)) {
      end.ended += 1.0;
      end.skipped +=
          static_cast<double>(job_.rules.max_tokens - std::ssize(sequence->result().token));
      open_.add(sequence->prompt().document, sequence->result(), sequence->text());
    }
    whole_.merge(open_.take_whole());
    busy = end_iteration(batches, end);
    if (to_write_) {
      result.new_parts += write_parts();
    }
    result.stopped = busy && stopping_;
  }
  if (result.stopped) {
    recorder_.event("stopped", fmt::format("asked to stop after {} prompts", ended_));
  }
  recorder_.close();
  return result;
}

/// The parts that this replica makes.
struct Deal {
  std::vector<std::int64_t> parts;
  std::int64_t missing = 0;    // on all replicas
  std::int64_t documents = 0;  // of these
};

Deal deal(const GenerateJob& job, const std::vector<std::uint8_t>& done) {
  const comm::Communicator& replicas = job.instance.mesh[comm::Group::kBatches];
  Deal deal;
  for (std::int64_t part = 0; part < std::ssize(done); ++part) {
    if (done[static_cast<std::size_t>(part)] == 0) {
      if (deal.missing++ % replicas.size() == replicas.rank()) {
        deal.parts.push_back(part);
      }
      deal.documents += job.prompts.documents_of(part);
    }
  }
  return deal;
}

// What the prompts of these parts need, or cannot have.
struct Need {
  std::int64_t tokens = 0;  // of all prompts
  std::int64_t pages = 0;   // for the longest of them, as many as run at once
};

Need need_of(const GenerateJob& job, const std::vector<std::int64_t>& parts, std::int64_t pages,
             std::int64_t page_bytes) {
  Need need;
  std::priority_queue<std::int64_t, std::vector<std::int64_t>, std::greater<>> longest;  // pages
  for (const std::int64_t part : parts) {
    const std::vector<std::int64_t> lengths =
        files::hdf5_run([&] { return job.prompts.lengths(part); });
    for (const std::int64_t length : lengths) {
      need.tokens += length;
      if (length >= job.rules.max_seq) {
        continue;
      }
      // Where an eos was taken for granted, there may be one token more.
      const std::int64_t wanted = engine::KvCache::pages_for(job.rules.most_cached(length + 1));
      need.pages += wanted;
      longest.push(wanted);
      if (std::ssize(longest) > job.rules.batch) {
        need.pages -= longest.top();
        longest.pop();
      }
      if (wanted > pages) {
        const std::vector<data::Prompt> prompts =
            files::hdf5_run([&] { return job.prompts.read(part); });
        throw Error(
            Exit::kUsage,
            fmt::format(
                "generate.cache = {:.0f} bytes is too small for document {} of {} tokens and a "
                "continuation of {}: they need {} bytes on each rank; raise generate.cache or "
                "lower generate.max_tokens",
                job.config.generate.cache,
                prompts
                    .at(static_cast<std::size_t>(std::find(lengths.begin(), lengths.end(), length) -
                                                 lengths.begin()))
                    .id,
                length, job.rules.max_tokens, wanted * page_bytes));
      }
    }
  }
  return need;
}

}  // namespace

GenerateResult generate(const GenerateJob& job) {
  const comm::Communicator& world = job.instance.mesh.world;
  std::vector<std::uint8_t> done(static_cast<std::size_t>(job.prompts.parts()));
  std::int64_t last_step = 0;
  world.together("look for finished parts", [&] {
    if (world.is_root()) {
      done = job.output.parts_done();
      last_step = job.output.last_trace_step();
    }
  });
  world.broadcast(std::span(done), 0);
  world.broadcast(std::span<std::int64_t>(&last_step, 1), 0);
  Deal dealt = deal(job, done);
  if (dealt.missing == 0) {
    return {};
  }
  if (dealt.missing < std::ssize(done)) {
    log::info(fmt::format("{} of {} parts are there already", std::ssize(done) - dealt.missing,
                          done.size()));
  }
  // As many pages as each rank of all stages has room for, but not more than are of use.
  const std::int64_t page_bytes =
      job.instance.transformer.page_elements() *
      static_cast<std::int64_t>(size_of(job.instance.context().compute));
  std::int64_t pages = world.all_reduce(
      static_cast<std::int64_t>(job.config.generate.cache) / page_bytes, comm::Reduce::kMin);
  Need need;
  world.together("check the prompts", [&] { need = need_of(job, dealt.parts, pages, page_bytes); });
  pages =
      std::max<std::int64_t>(1, std::min(pages, world.all_reduce(need.pages, comm::Reduce::kMax)));
  const double prompt_tokens = world.all_reduce(
      job.instance.mesh.reports() ? static_cast<double>(need.tokens) : 0.0, comm::Reduce::kSum);
  const double all_work =
      prompt_tokens + static_cast<double>(dealt.documents * job.rules.max_tokens);
  log::info(fmt::format("{} prompts, {} pages of {} tokens for their keys and values on each rank",
                        dealt.documents, pages, kPageTokens));
  return Generator(job, std::move(dealt.parts), pages, last_step, all_work, dealt.documents).run();
}

}  // namespace moesaic::infer
