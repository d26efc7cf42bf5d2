#include "config/validate.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <set>

#include "base/error.h"
#include "base/text.h"
#include "config/keys.h"

namespace moesaic::config {
namespace {

using Lines = std::vector<std::string>;

/// The divisors of n next to `value`, as "2 or 4".
std::string near_divisors(std::int64_t n, std::int64_t value) {
  Lines found;
  for (std::int64_t d = std::min(value, n); d >= 1; --d) {
    if (n % d == 0) {
      found.push_back(std::to_string(d));
      break;
    }
  }
  for (std::int64_t d = value + 1; d <= n; ++d) {
    if (n % d == 0) {
      found.push_back(std::to_string(d));
      break;
    }
  }
  return join(found, " or ");
}

/// The positive multiples of `step` next to `value`.
std::string near_multiples(std::int64_t step, std::int64_t value) {
  const std::int64_t below = value / step * step;
  return below == 0 ? std::to_string(step) : fmt::format("{} or {}", below, below + step);
}

void check_attention(const Model& m, Lines& lines) {
  if (m.head_dim == 0) {
    lines.push_back(fmt::format(
        "model.d_model = {} is not a multiple of model.heads = {}: use d_model {}, or set "
        "model.head_dim",
        m.d_model, m.heads, near_multiples(m.heads, m.d_model)));
  } else if (m.head_dim % 2 != 0) {
    lines.push_back(
        fmt::format("model.head_dim = {} is odd, but rotary positions turn pairs: use {} or {}",
                    m.head_dim, std::max<std::int64_t>(2, m.head_dim - 1), m.head_dim + 1));
  }
  if (m.heads % m.kv_heads != 0) {
    lines.push_back(fmt::format("model.kv_heads = {} does not divide model.heads = {}: use {}",
                                m.kv_heads, m.heads, near_divisors(m.heads, m.kv_heads)));
  }
}

void check_experts(const Model& m, std::int64_t ep, Lines& lines) {
  if (m.dense_layers > m.layers) {
    lines.push_back(fmt::format("model.dense_layers = {} is more than model.layers = {}",
                                m.dense_layers, m.layers));
  }
  if (m.dense_layers >= m.layers) {
    if (ep > 1) {
      lines.push_back(fmt::format(
          "parallel.ep = {} has no experts to share out, as every layer is dense: use 1", ep));
    }
    return;
  }
  if (m.experts == 0) {
    lines.push_back(fmt::format(
        "model.experts = 0 needs a dense model: set model.dense_layers = {} (= model.layers)",
        m.layers));
    return;
  }
  if (m.top_k > m.experts) {
    lines.push_back(fmt::format("model.top_k = {} is more than model.experts = {}: use 1 to {}",
                                m.top_k, m.experts, m.experts));
  }
  if (m.experts % ep != 0) {
    lines.push_back(fmt::format("parallel.ep = {} does not divide model.experts = {}: use ep {}",
                                ep, m.experts, near_divisors(m.experts, ep)));
  }
}

void check_router(const Router& router, Lines& lines) {
  if (router.capacity > 0 && router.capacity_factor > 0.0) {
    lines.push_back(fmt::format(
        "router.capacity = {} and router.capacity_factor = {} are both set: set one of them to 0",
        router.capacity, router.capacity_factor));
  }
}

void check_layout(const Parallel& parallel, std::int64_t experts, int ranks,
                  const std::string& ranks_name, Lines& lines) {
  for (const auto& [name, degree] : {std::pair("tp", parallel.tp), std::pair("pp", parallel.pp)}) {
    if (degree > 1) {
      lines.push_back(fmt::format("parallel.{} = {} is not built yet: use 1", name, degree));
    }
  }
  if (ranks % parallel.ep != 0) {
    lines.push_back(fmt::format("parallel.ep = {} does not divide {} = {}: use {} ranks, or ep {}",
                                parallel.ep, ranks_name, ranks, near_multiples(parallel.ep, ranks),
                                near_divisors(std::gcd(experts, ranks), parallel.ep)));
  }
}

void check_training(const Config& c, Lines& lines) {
  const Train& t = c.train;
  const std::int64_t steps = total_steps(c);
  if (steps == 0) {
    lines.emplace_back("train.steps or train.tokens is required: how long to train");
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
  if (t.min_lr > t.lr) {
    lines.push_back(fmt::format("train.min_lr = {} is more than train.lr = {}", t.min_lr, t.lr));
  }
  // A run shorter than its warm-up is legal (a trial run); a decay that ends before it is not.
  if (t.decay_steps != steps && t.decay_steps < t.warmup) {
    lines.push_back(fmt::format("train.decay_steps = {} is less than train.warmup = {}",
                                t.decay_steps, t.warmup));
  }
}

void check_shares(const Data& data, Lines& lines) {
  const std::vector<double>& corpora = data.corpus_weights;
  if (!corpora.empty() && *std::max_element(corpora.begin(), corpora.end()) <= 0.0) {
    lines.emplace_back("data.corpus_weights are all 0: nothing would be sampled");
  }
  double largest = 0.0;
  std::set<std::string> names;
  for (const auto& [name, weight] : data.task_weights) {
    largest = std::max(largest, weight);
    if (!names.insert(name).second) {
      lines.push_back(fmt::format("data.task_weights names {} twice", name));
    }
  }
  if (!names.empty() && largest <= 0.0) {
    lines.emplace_back("data.task_weights are all 0: nothing would be sampled");
  }
  if (!names.empty() && !corpora.empty()) {
    lines.emplace_back(
        "data.corpus_weights and data.task_weights are both set, and could contradict each other: "
        "leave one out");
  }
}

void check_train_inputs(const Config& c, Lines& lines) {
  check_shares(c.data, lines);
  const std::size_t weights = c.data.corpus_weights.size();
  if (c.data.corpus.empty()) {
    lines.emplace_back("data.corpus is required: the corpus to train on");
  } else if (weights > 0 && weights != c.data.corpus.size()) {
    lines.push_back(fmt::format("data.corpus_weights has {} values for {} of data.corpus", weights,
                                c.data.corpus.size()));
  }
  if (c.eval.every > 0 && c.data.eval_corpus.empty()) {
    lines.push_back(fmt::format("eval.every = {} needs data.eval_corpus", c.eval.every));
  }
  for (const std::string& allowed : c.checkpoint.allow) {
    const Lines known = sections();
    const bool is_section = std::find(known.begin(), known.end(), allowed) != known.end();
    if (!is_section && find_key(allowed) == nullptr) {
      lines.push_back(fmt::format("checkpoint.allow = {} is neither a key nor a section{}", allowed,
                                  suggestion(allowed)));
    }
  }
}

void check_score(const Config& c, Lines& lines) {
  const ScoreJob& s = c.score;
  if (c.model.path.empty()) {
    lines.emplace_back("model.path is required: the checkpoint to score with");
  }
  if (c.data.corpus.empty()) {
    lines.emplace_back("data.corpus is required: the corpus to score");
  }
  if (s.output.empty()) {
    lines.emplace_back("score.output (or run.dir) is required: where to write the scores");
  }
  if (s.window > c.model.max_seq) {
    lines.push_back(fmt::format(
        "score.window = {} is more than model.max_seq = {}: set score.window to at most {}",
        s.window, c.model.max_seq, c.model.max_seq));
  }
  if (s.stride > s.window) {
    lines.push_back(
        fmt::format("score.stride = {} is more than score.window = {}", s.stride, s.window));
  }
  try {
    parse_shards(s.shards);
  } catch (const Error& error) {
    lines.push_back(fmt::format("score.shards: {}", error.what()));
  }
  if (!s.shards.empty() && s.output.ends_with(".h5")) {
    lines.push_back(fmt::format(
        "score.shards = {} needs a folder, but score.output = {} is one file: leave out .h5",
        s.shards, s.output));
  }
}

void check_tokenize(const Tokenize& t, Lines& lines) {
  if (t.input.empty()) {
    lines.emplace_back("tokenize.input is required: text files, JSONL files or folders");
  }
  if (t.output.empty()) {
    lines.emplace_back("tokenize.output is required: the folder for the corpus");
  }
  if (t.task.size() > 1 && t.task.size() != t.input.size()) {
    lines.push_back(fmt::format(
        "tokenize.task has {} names for {} of tokenize.input: give one, or one for each",
        t.task.size(), t.input.size()));
  }
  // A trained vocabulary holds the 256 bytes, so that no text is lost.
  constexpr std::int64_t kLeastVocabulary = 320;
  if (t.tokenizer == "train" && t.vocab_size < kLeastVocabulary) {
    lines.push_back(fmt::format(
        "tokenize.vocab_size = {} is too small to train a vocabulary: the nearest is {}",
        t.vocab_size, kLeastVocabulary));
  }
}

void check_model_job(const Config& c, int ranks, const std::string& ranks_name, Lines& lines) {
  check_attention(c.model, lines);
  check_experts(c.model, c.parallel.ep, lines);
  check_router(c.router, lines);
  check_layout(c.parallel, c.model.experts, ranks, ranks_name, lines);
  if (c.run.device == Device::kCuda) {
    lines.emplace_back("run.device = cuda is not in this build: use cpu");
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
  } else if (job == "score") {
    check_score(config, lines);
    check_model_job(config, ranks, "the number of ranks", lines);
  } else if (job == "plan") {
    const bool known = config.plan.job == "train" || config.plan.job == "score";
    if (!known) {
      lines.push_back(
          fmt::format("plan.job = {} cannot be planned: use train or score", config.plan.job));
    }
    check_model_job(config, static_cast<int>(config.plan.ranks), "plan.ranks", lines);
    if (config.plan.job == "train") {
      check_training(config, lines);
    }
  }
  return lines;
}

}  // namespace moesaic::config
