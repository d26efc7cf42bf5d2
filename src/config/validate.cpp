#include "config/validate.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "base/error.h"
#include "base/text.h"
#include "config/validate_inputs.h"

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

/// Whole experts over ep, or over ep x tp when they are folded.
void check_experts(const Model& m, const Parallel& parallel, Lines& lines) {
  const std::int64_t ep = parallel.ep;
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
  if (m.experts < ep) {
    lines.push_back(fmt::format("parallel.ep = {} is more than model.experts = {}: use ep {}", ep,
                                m.experts, near_divisors(m.experts, ep)));
  } else if (parallel.expert_tp == 1 && m.experts < ep * parallel.tp) {
    lines.push_back(
        fmt::format("parallel.expert_tp = 1 spreads experts over ep x tp = {}, more than "
                    "model.experts = {}: use ep {}, or expert_tp 0",
                    ep * parallel.tp, m.experts,
                    near_divisors(std::max<std::int64_t>(1, m.experts / parallel.tp), ep)));
  }
}

void check_groups(const Model& m, const Router& router, Lines& lines) {
  if (m.experts % router.groups != 0) {
    lines.push_back(fmt::format("router.groups = {} does not divide model.experts = {}: use {}",
                                router.groups, m.experts, near_divisors(m.experts, router.groups)));
  } else if (router.top_groups > router.groups) {
    lines.push_back(fmt::format("router.top_groups = {} is more than router.groups = {}",
                                router.top_groups, router.groups));
  } else if (m.top_k > m.experts / router.groups * router.top_groups) {
    lines.push_back(
        fmt::format("model.top_k = {} is more than the {} experts of router.top_groups = {}",
                    m.top_k, m.experts / router.groups * router.top_groups, router.top_groups));
  }
  if (router.groups > 1 && router.spare_experts > 0) {
    lines.push_back(fmt::format(
        "router.spare_experts = {} belong to no group: set it to 0, or router.groups to 1",
        router.spare_experts));
  }
}

void check_gate(const Model& m, const Router& router, Lines& lines) {
  if (router.candidates > 0 && !router.task_gate) {
    lines.push_back(
        fmt::format("router.candidates = {} needs router.task_gate = 1", router.candidates));
  } else if (router.candidates > 0 && router.candidates < m.top_k) {
    lines.push_back(fmt::format("router.candidates = {} is less than model.top_k = {}",
                                router.candidates, m.top_k));
  }
}

void check_overflow(const Router& router, Lines& lines) {
  if (router.capacity > 0 && router.capacity_factor > 0.0) {
    lines.push_back(fmt::format(
        "router.capacity = {} and router.capacity_factor = {} are both set: set one of them to 0",
        router.capacity, router.capacity_factor));
  }
  if (router.spare_experts > 0 && router.overflow != Overflow::kSpare) {
    lines.push_back(
        fmt::format("router.spare_experts = {} would never be used: set router.overflow = spare",
                    router.spare_experts));
  } else if (router.overflow == Overflow::kSpare && router.spare_experts == 0) {
    lines.emplace_back(
        "router.overflow = spare needs router.spare_experts: set it, or overflow = next");
  }
}

void check_router(const Model& m, const Router& router, Lines& lines) {
  check_overflow(router, lines);
  if (m.dense_layers < m.layers && m.top_k <= m.experts) {
    check_groups(m, router, lines);
    check_gate(m, router, lines);
  }
}

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
  const std::int64_t narrowest =
      std::min({m.dense_layers > 0 ? m.d_ff : tp, m.dense_layers < m.layers ? m.expert_d_ff : tp});
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
    const std::int64_t rest = ranks / inner;
    lines.push_back(fmt::format(
        "parallel.ep = {} does not divide {} = {}{}: use {} ranks, or ep {}", p.ep, ranks_name,
        ranks, inner > 1 ? fmt::format(" / (tp x pp = {})", inner) : "",
        near_multiples(inner * p.ep, ranks), near_divisors(std::gcd(c.model.experts, rest), p.ep)));
  }
}

/// An interleaved schedule goes through its runs in rounds of pp micro-batches.
void check_rounds(const Config& c, int ranks, Lines& lines) {
  const Parallel& p = c.parallel;
  const std::int64_t replicas = std::max<std::int64_t>(1, ranks / (p.tp * p.pp));
  const std::int64_t each = (c.train.batch / c.train.micro_batch + replicas - 1) / replicas;
  if (p.schedule == PipelineSchedule::kInterleaved && each % p.pp != 0) {
    lines.push_back(fmt::format(
        "parallel.schedule = interleaved needs a multiple of pp = {} micro-batches on each of {} "
        "replicas, not {}: use train.batch {}",
        p.pp, replicas, each,
        near_multiples(p.pp * replicas * c.train.micro_batch, c.train.batch)));
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
  if (t.spike > 0.0 && t.spike <= 1.0) {
    lines.push_back(fmt::format(
        "train.spike = {} would call every other step a spike: use more than 1, or 0", t.spike));
  }
  // A run shorter than its warm-up is legal (a trial run); a decay that ends before it is not.
  if (t.decay_steps != steps && t.decay_steps < t.warmup) {
    lines.push_back(fmt::format("train.decay_steps = {} is less than train.warmup = {}",
                                t.decay_steps, t.warmup));
  }
}

void check_model_job(const Config& c, int ranks, const std::string& ranks_name, Lines& lines) {
  check_attention(c.model, lines);
  check_experts(c.model, c.parallel, lines);
  check_router(c.model, c.router, lines);
  check_layout(c, ranks, ranks_name, lines);
  check_tensor_parallel(c, lines);
  check_pipeline(c, lines);
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
    check_rounds(config, ranks, lines);
  } else if (job == "score") {
    check_score(config, lines);
    check_model_job(config, ranks, "the number of ranks", lines);
  } else if (job == "experts") {
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
      check_rounds(config, static_cast<int>(config.plan.ranks), lines);
    }
  }
  return lines;
}

}  // namespace moesaic::config
