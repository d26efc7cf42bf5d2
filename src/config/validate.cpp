#include "config/validate.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <string_view>

#include "base/error.h"
#include "base/text.h"
#include "config/checks.h"
#include "config/enum_names.h"
#include "config/layers.h"
#include "config/value.h"

namespace moesaic::config {
namespace {

/// Heads, key and value heads, and hidden widths over tp.
void check_tensor_parallel(const Config& c, Lines& lines) {
  const std::int64_t tp = c.parallel.tp;
  const Model& m = c.model;
  if (m.heads % tp != 0) {
    lines.push_back(fmt::format("parallel.tp = {} does not divide model.heads = {}: use tp {}", tp,
                                m.heads, near_divisors(m.heads, tp)));
  }
  if (m.kv_heads % tp != 0 && tp % m.kv_heads != 0) {
    lines.push_back(fmt::format(
        "parallel.tp = {} and model.kv_heads = {}: one must divide the other; use tp {}", tp,
        m.kv_heads, near_divisors(m.kv_heads, tp)));
  }
  const auto moe = std::ssize(moe_layers(m));
  const std::int64_t narrowest =
      std::min({moe < m.layers ? m.d_ff : tp, moe > 0 ? m.expert_d_ff : tp});
  if (narrowest < tp) {
    lines.push_back(
        fmt::format("parallel.tp = {} is more than a hidden width of {}: use at most {}", tp,
                    narrowest, narrowest));
  }
  if (c.parallel.expert_tp > 1 && c.parallel.expert_tp != tp) {
    lines.push_back(
        fmt::format("parallel.expert_tp = {} is neither 1 nor parallel.tp = {}: use one of them",
                    c.parallel.expert_tp, tp));
  }
}

/// Layers over stages and their runs.
void check_pipeline(const Config& c, Lines& lines) {
  const Parallel& p = c.parallel;
  if (p.schedule == PipelineSchedule::k1f1b && p.virtual_stages > 1) {
    lines.push_back(fmt::format(
        "parallel.virtual_stages = {} needs parallel.schedule = interleaved", p.virtual_stages));
  }
  if (p.schedule == PipelineSchedule::kInterleaved && (p.pp < 2 || p.virtual_stages < 2)) {
    lines.push_back(fmt::format(
        "parallel.schedule = interleaved needs parallel.pp and parallel.virtual_stages of at least "
        "2, not {} and {}",
        p.pp, p.virtual_stages));
  }
  if (c.model.layers < p.pp * p.virtual_stages) {
    lines.push_back(fmt::format(
        "parallel.pp = {} x virtual_stages = {} is more than model.layers = {}: use pp {}", p.pp,
        p.virtual_stages, c.model.layers,
        std::max<std::int64_t>(1, c.model.layers / p.virtual_stages)));
  }
}

void check_layout(const Config& c, int ranks, const std::string& ranks_name, Lines& lines) {
  const Parallel& p = c.parallel;
  const std::int64_t inner = p.tp * p.pp;
  if (ranks % inner != 0) {
    lines.push_back(fmt::format("parallel.tp = {} x pp = {} does not divide {} = {}: use {} ranks",
                                p.tp, p.pp, ranks_name, ranks, near_multiples(inner, ranks)));
  } else if (ranks % (inner * p.ep) != 0) {
    const std::int64_t rest = ranks % (inner * p.cp) == 0 ? ranks / (inner * p.cp) : ranks / inner;
    lines.push_back(
        fmt::format("parallel.ep = {} does not divide {} = {}{}: use {} ranks, or ep {}", p.ep,
                    ranks_name, ranks, inner > 1 ? fmt::format(" / (tp x pp = {})", inner) : "",
                    near_multiples(inner * p.ep * p.cp, ranks),
                    near_divisors(std::gcd(c.model.experts, rest), p.ep)));
  } else if (ranks % (inner * p.ep * p.cp) != 0) {
    const std::int64_t others = inner * p.ep;
    lines.push_back(fmt::format(
        "parallel.cp = {} does not divide {} = {}{}: use {} ranks, or cp {}", p.cp, ranks_name,
        ranks, others > 1 ? fmt::format(" / (tp x pp x ep = {})", others) : "",
        near_multiples(others * p.cp, ranks), near_divisors(ranks / others, p.cp)));
  }
}

/// generate has a row for each sequence, and convert compares and calibrates on whole ones.
void check_context_parallel(const Config& c, const std::string& job, Lines& lines) {
  if (c.parallel.cp > 1 && (job == "generate" || job == "convert")) {
    lines.push_back(fmt::format(
        "parallel.cp = {} is for train and score: use 1 for {}, where tp, pp and ep share out "
        "the model",
        c.parallel.cp, job));
  }
}

/// An interleaved schedule goes through its runs in groups of pp micro-batches.
void check_interleaved(const Config& c, int ranks, Lines& lines) {
  const Parallel& p = c.parallel;
  const std::int64_t replicas = std::max<std::int64_t>(1, ranks / (p.tp * p.pp * p.cp));
  const std::int64_t each = (c.train.batch / c.train.micro_batch + replicas - 1) / replicas;
  if (p.schedule == PipelineSchedule::kInterleaved && each % p.pp != 0) {
    lines.push_back(fmt::format(
        "parallel.schedule = interleaved needs a multiple of pp = {} micro-batches on each of {} "
        "replicas, not {}: use train.batch {}",
        p.pp, replicas, each,
        near_multiples(p.pp * replicas * c.train.micro_batch, c.train.batch)));
  }
}

/// The words and signs of patterns; whether they match is known with the model.
void check_patterns(const Config& c, Lines& lines) {
  const auto check = [&](const char* key, std::string_view pattern) {
    const std::optional<std::int64_t> last = last_blocks(pattern);
    if (pattern.empty() || (last && (*last < 1 || *last > c.model.layers))) {
      lines.push_back(fmt::format(
          "{}: '{}' is no pattern: use a glob of tensors' names, all, head, last:1 to last:{}, "
          "router or adapter",
          key, pattern, c.model.layers));
    }
  };
  for (const std::string& pattern : c.train.trainable) {
    check("train.trainable", std::string_view(pattern).substr(pattern.starts_with('!') ? 1 : 0));
  }
  for (const auto& [pattern, scale] : c.train.lr_scale) {
    check("train.lr_scale", pattern);
  }
  const char* const other = !c.run.control.empty()         ? "run.control"
                            : c.router.gradient_buffer > 0 ? "router.gradient_buffer"
                                                           : nullptr;
  if (!c.train.trainable.empty() && other != nullptr) {
    lines.push_back(fmt::format(
        "{} needs experts that are all trained: leave it out, or train.trainable", other));
  }
}

/// Adapters that are read need a model.
void check_adapter(const Config& c, Lines& lines) {
  if (!c.model.adapter.empty() && c.model.path.empty()) {
    lines.emplace_back("model.adapter is added to a model: set model.path");
  }
}

/// What checkpoints hold, and what becomes of the last one.
void check_checkpoints(const Config& c, Lines& lines) {
  if (c.checkpoint.content == Content::kTrained && c.model.path.empty()) {
    lines.emplace_back(
        "checkpoint.content = trained needs a base: set model.path, or use checkpoint.content = "
        "all");
  }
  if (c.checkpoint.exported == Export::kPeft &&
      (c.adapter.rank == 0 || c.train.trainable != std::vector<std::string>{"adapter"} ||
       !c.model.adapter.empty())) {
    lines.emplace_back(
        "checkpoint.export = peft writes adapters alone, of one base: set adapter.rank, and leave "
        "train.trainable and model.adapter out");
  }
  if (c.checkpoint.exported != Export::kNone && c.checkpoint.dir.empty()) {
    lines.emplace_back("checkpoint.export needs checkpoints: set run.dir or checkpoint.dir");
  }
}

void check_training(const Config& c, Lines& lines) {
  const Train& t = c.train;
  check_patterns(c, lines);
  check_checkpoints(c, lines);
  const std::int64_t steps = total_steps(c);
  if (steps == 0 && t.epochs == 0.0) {
    lines.emplace_back("train.steps, train.tokens or train.epochs is required: how long to train");
  }
  if (t.epochs > 0.0 && c.data.corpus.empty()) {
    lines.push_back(
        fmt::format("train.epochs = {} needs data.corpus, whose samples are counted", t.epochs));
  }
  if (t.batch % t.micro_batch != 0) {
    lines.push_back(fmt::format(
        "train.batch = {} is not a multiple of train.micro_batch = {}: use batch {}, or "
        "micro_batch {}",
        t.batch, t.micro_batch, near_multiples(t.micro_batch, t.batch),
        near_divisors(t.batch, t.micro_batch)));
  }
  if (c.data.seq_len > c.model.max_seq) {
    lines.push_back(fmt::format(
        "data.seq_len = {} is more than model.max_seq = {}: set data.seq_len to at most {}{}",
        c.data.seq_len, c.model.max_seq, c.model.max_seq,
        c.model.path.empty() ? fmt::format(", or model.max_seq to at least {}", c.data.seq_len)
                             : ""));
  }
  if (c.data.samples == Samples::kDocuments && t.tokens > 0) {
    lines.push_back(fmt::format(
        "train.tokens = {} does not fit to data.samples = documents, whose steps have as many "
        "tokens as their documents: use train.epochs or train.steps",
        t.tokens));
  }
  if (c.data.samples == Samples::kStream && c.data.truncate != TooLong::kDrop) {
    lines.push_back(fmt::format("data.truncate = {} has no effect without data.samples = documents",
                                name_of(c.data.truncate)));
  }
  if (t.min_lr > t.lr) {
    lines.push_back(fmt::format("train.min_lr = {} is more than train.lr = {}", t.min_lr, t.lr));
  }
  if (t.spike > 0.0 && t.spike <= 1.0) {
    lines.push_back(fmt::format(
        "train.spike = {} would call every other step a spike: use more than 1, or 0", t.spike));
  }
  // A run shorter than its warm-up is legal (a trial run); a decay that ends before it is not.
  if (t.decay_steps > 0 && t.decay_steps != steps && t.decay_steps < t.warmup) {
    lines.push_back(fmt::format("train.decay_steps = {} is less than train.warmup = {}",
                                t.decay_steps, t.warmup));
  }
}

void check_model_job(const Config& c, int ranks, const std::string& ranks_name, Lines& lines) {
  check_model(c, lines);
  check_adapter(c, lines);
  check_layout(c, ranks, ranks_name, lines);
  check_tensor_parallel(c, lines);
  check_pipeline(c, lines);
  if (c.run.device == Device::kCpu && c.run.collectives != CollectivesBy::kNccl) {
    lines.push_back(fmt::format(
        "run.collectives = {} has no effect with run.device = cpu: leave it out, or use cuda",
        name_of(c.run.collectives)));
  }
}

}  // namespace

std::vector<std::string> problems(const Config& config, const std::string& job, int ranks) {
  Lines lines;
  if (job == "tokenize") {
    check_tokenize(config.tokenize, lines);
  } else if (job == "train") {
    check_train_inputs(config, lines);
    check_model_job(config, ranks, "the number of ranks", lines);
    check_training(config, lines);
    check_interleaved(config, ranks, lines);
  } else if (job == "score") {
    check_score(config, lines);
    check_model_job(config, ranks, "the number of ranks", lines);
  } else if (job == "generate") {
    check_generate(config, lines);
    check_model_job(config, ranks, "the number of ranks", lines);
    check_context_parallel(config, job, lines);
  } else if (job == "experts" || job == "convert") {
    if (job == "convert") {
      check_convert(config.convert, lines);
    }
    check_model_job(config, ranks, "the number of ranks", lines);
    check_context_parallel(config, job, lines);
  } else if (job == "plan") {
    const std::string& planned = config.plan.job;
    const bool known = planned == "train" || planned == "score" || planned == "generate";
    if (!known) {
      lines.push_back(
          fmt::format("plan.job = {} cannot be planned: use train, score or generate", planned));
    }
    check_model_job(config, static_cast<int>(config.plan.ranks), "plan.ranks", lines);
    check_context_parallel(config, planned, lines);
    if (planned == "train") {
      check_training(config, lines);
      check_interleaved(config, static_cast<int>(config.plan.ranks), lines);
    }
  }
  return lines;
}

}  // namespace moesaic::config
