#include "plan/report.h"

#include <fmt/format.h>

#include <algorithm>
#include <string_view>
#include <vector>

#include "backend/backend.h"
#include "base/share.h"
#include "base/text.h"
#include "config/validate.h"
#include "model/trainable.h"
#include "plan/context_traffic.h"

namespace moesaic::plan {
namespace {

using Rows = std::vector<std::vector<std::string>>;

std::string count(std::int64_t value) { return short_count(static_cast<double>(value)); }

void add_model(const Estimate& e, Rows& rows) {
  const Count all = e.size.sum();
  rows.push_back({"model", fmt::format("{} parameters, {} active for one token", count(all.total),
                                       count(all.active))});
  if (e.size.embedding.total == 0) {
    rows.push_back({"", "without embedding and head: give model.vocab_size or data.corpus"});
  }
  for (const auto& [name, part] : e.size.classes()) {
    if (part.total > 0) {
      rows.push_back({fmt::format("  {}", name),
                      part.total == part.active
                          ? count(part.total)
                          : fmt::format("{}, {} active", count(part.total), count(part.active))});
    }
  }
  if (e.freezes) {
    rows.push_back({"trained", fmt::format("{} parameters, {:.2f} %", count(e.size.trained),
                                           100.0 * static_cast<double>(e.size.trained) /
                                               static_cast<double>(all.total))});
  }
}

std::string layout_text(const Layout& layout) {
  std::string text = fmt::format("tp={} pp={} ep={}{} dp={}", layout.tp, layout.pp, layout.ep,
                                 layout.cp > 1 ? fmt::format(" cp={}", layout.cp) : "", layout.dp);
  text += layout.chunks > 1 ? fmt::format(", {} runs of layers on a stage", layout.chunks) : "";
  text += layout.sequence ? ", sequence split" : "";
  text += layout.folded && layout.tp > 1 ? ", experts whole" : "";
  text += layout.zero ? ", ZeRO-1" : "";
  text += layout.recompute ? ", recompute" : "";
  return text;
}

void add_memory(const Estimate& e, const config::Plan& plan, Rows& rows) {
  rows.push_back({"memory", short_bytes(e.memory.sum()) + " on each rank, at its peak"});
  for (const auto& [name, bytes] : e.memory.classes()) {
    if (bytes > 0.0) {
      rows.push_back({fmt::format("  {}", name), short_bytes(bytes)});
    }
  }
  if (plan.memory_per_node > 0.0) {
    const double needed = e.memory.sum() * static_cast<double>(plan.ranks_per_node);
    rows.push_back(
        {"node", fmt::format("{} for {} of its ranks, it has {}: {}", short_bytes(needed),
                             plan.ranks_per_node, short_bytes(plan.memory_per_node),
                             needed <= plan.memory_per_node ? "fits" : "does not fit")});
  }
}

void add_cache(const Estimate& e, const config::Config& config, Rows& rows) {
  if (e.job != "generate") {
    return;
  }
  const double bytes = most_page_bytes(config, e.layout);
  const std::int64_t pages = cache_pages(config, e.layout);
  const std::int64_t longest = (config.model.max_seq + kPageTokens - 1) / kPageTokens;
  rows.push_back({"cache", fmt::format("{} pages of {} tokens, {} each on a rank ({} a token)",
                                       pages, kPageTokens, short_bytes(bytes),
                                       short_bytes(bytes / static_cast<double>(kPageTokens)))});
  rows.push_back(
      {"", fmt::format("{} sequences of model.max_seq = {} tokens, of at most {} at once",
                       pages / longest, config.model.max_seq,
                       config::sequences_at_once(config.generate))});
}

void add_data(const Estimate& e, const config::Config& config, std::int64_t corpus_tokens,
              Rows& rows) {
  if (corpus_tokens > 0) {
    rows.push_back({"data", count(corpus_tokens) + " tokens"});
  }
  if (e.job != "train") {
    return;
  }
  const bool documents = config.data.samples == config::Samples::kDocuments;
  const char* const most = documents ? "at most " : "";  // they have as many rows as they have
  std::string length =
      fmt::format("{} steps of {}{} tokens = {}{} tokens", e.steps, most,
                  count(config.train.batch * config.data.seq_len), most, short_count(e.tokens));
  if (corpus_tokens > 0 && !documents) {
    length += fmt::format(", {:.2f} epochs", e.tokens / static_cast<double>(corpus_tokens));
  }
  rows.push_back({"run", length});
  if (documents) {
    rows.push_back(
        {"micro-batch",
         fmt::format("at most {} rows, as is estimated here: {} documents of data.seq_len "
                     "(of a group each counts)",
                     config.train.micro_batch * config.data.seq_len, config.train.micro_batch)});
  }
}

void add_cost(const Estimate& e, const config::Config& config, Rows& rows) {
  if (e.job != "train") {
    rows.push_back({"FLOP", short_count(e.flop.forward) + " for one token"});
    if (e.quantized_bytes > 0.0) {
      constexpr double kFp32 = 4.0;
      rows.push_back(
          {"weights", fmt::format("{} in fp32, {} in a checkpoint of convert.quantize = {}",
                                  short_bytes(kFp32 * static_cast<double>(e.size.sum().total)),
                                  short_bytes(e.quantized_bytes), name_of(*config.run.quantize))});
    }
    return;
  }
  rows.push_back({"FLOP", fmt::format("{} for one token ({} forward), {} for the run",
                                      short_count(e.flop.training), short_count(e.flop.forward),
                                      short_count(e.flop.training * e.tokens))});
  rows.push_back({"traffic", short_bytes(e.traffic.sum()) + " that a rank sends in one step"});
  for (const comm::Group group : comm::kTracedGroups) {
    if (e.traffic[group] > 0.0) {
      rows.push_back(
          {fmt::format("  {}", comm::row_of(group).sends), short_bytes(e.traffic[group])});
    }
  }
  if (e.bubble > 0.0) {
    rows.push_back({"bubble", fmt::format("{:.1f} % of a step, while the pipeline fills and drains",
                                          100.0 * e.bubble)});
  }
  if (e.step_seconds > 0.0) {
    const double tokens = static_cast<double>(config.train.batch * config.data.seq_len);
    rows.push_back(
        {"speed", fmt::format("about {:.3g} s for a step, {} tokens/s, {} for the run",
                              e.step_seconds, short_count(tokens / e.step_seconds),
                              short_duration(e.step_seconds * static_cast<double>(e.steps)))});
  }
  rows.push_back({"checkpoint", short_bytes(e.checkpoint_bytes)});
}

// The rows of the rank of cp that has most of a micro-batch, by those that it had if they were
// even.
double uneven_context(const config::Config& config, const Layout& layout) {
  const auto rows = static_cast<double>(config.train.micro_batch * config.data.seq_len);
  return own_rows(layout, rows) * static_cast<double>(layout.cp) / rows;
}

// Rows are cut at tiles of keys: few of them cannot be shared evenly.
void add_context(const Estimate& e, const config::Config& config, Rows& rows) {
  if (e.layout.cp == 1 || e.job != "train") {
    return;
  }
  const std::int64_t all = config.train.micro_batch * config.data.seq_len;
  const std::int64_t even = 2 * e.layout.cp * kKeyTile;
  rows.push_back(
      {"rows over cp",
       fmt::format("{} of {} on the fullest rank{}", own_rows(e.layout, static_cast<double>(all)),
                   all, all % even == 0 ? "" : fmt::format(" (even: a multiple of {})", even))});
}

// Seconds of a step: products at plan.flops on the stage with most layers, waiting for the
// pipeline, then what is sent at plan.network, as if nothing overlapped.
double predicted_seconds(const Estimate& e, const config::Config& config, std::int64_t ranks) {
  if (config.plan.flops <= 0.0) {
    return 0.0;
  }
  std::int64_t most = 0;
  for (std::int64_t stage = 0; stage < e.layout.pp; ++stage) {
    const Stage s = stage_of(config.model, e.layout, stage);
    most = std::max(most, s.dense + s.moe);
  }
  const double uneven = static_cast<double>(most * e.layout.pp) /
                        static_cast<double>(std::max<std::int64_t>(1, config.model.layers));
  const double tokens = static_cast<double>(config.train.batch * config.data.seq_len);
  const double again = e.layout.recompute ? e.flop.forward : 0.0;
  const double compute = (e.flop.training + again) * tokens / static_cast<double>(ranks) * uneven *
                         uneven_context(config, e.layout) / config.plan.flops / (1.0 - e.bubble);
  const double network = config.plan.network > 0.0 ? e.traffic.sum() / config.plan.network : 0.0;
  return compute + network;
}

}  // namespace

Estimate estimate(const config::Config& config, int ranks, const routing::GateState& gates) {
  const bool training = config.plan.job == "train";
  const bool scoring = config.plan.job == "score";
  const model::Tuning tuning = training ? model::tuning_of(config, gates) : model::Tuning::none();
  Estimate e;
  e.job = config.plan.job;
  e.size = model_size(config, gates, tuning);
  e.layout = Layout::of(config, ranks);
  e.flop = flop_per_token(config.model, e.size,
                          training  ? config.data.seq_len
                          : scoring ? config.score.window
                                    : config.model.max_seq);
  for (std::int64_t stage = 0; stage < e.layout.pp; ++stage) {
    Memory memory = memory_per_rank(config, e.layout, stage, training, gates, tuning);
    add_process(config, e.layout, stage, gates, e.size, tuning, memory);
    e.memory = stage == 0 || memory.sum() > e.memory.sum() ? memory : e.memory;
    const Traffic traffic =
        training ? traffic_per_step(config, e.layout, stage, gates, -1, tuning) : Traffic{};
    e.traffic = traffic.sum() > e.traffic.sum() ? traffic : e.traffic;
  }
  if (training) {
    e.freezes = tuning.roles.freezes();
    const double moments = 2.0 * static_cast<double>(size_of(config.train.moments));
    e.checkpoint_bytes =
        4.0 * static_cast<double>(config.checkpoint.content == config::Content::kTrained
                                      ? e.size.trained
                                      : e.size.sum().total) +
        moments * static_cast<double>(e.size.trained) +
        (config.router.gradient_buffer > 0 ? 4.0 : 0.0) * static_cast<double>(e.size.experts.total);
    e.steps = config::total_steps(config);
    e.tokens = static_cast<double>(e.steps) *
               static_cast<double>(config.train.batch * config.data.seq_len);
    e.bubble =
        ideal_bubble(e.layout.pp, e.layout.chunks, micro_batches_per_rank(config.train, e.layout));
    e.step_seconds = predicted_seconds(e, config, ranks);
  }
  if (!training && config.run.quantize.has_value()) {
    e.quantized_bytes = quantized_bytes(config, gates);
  }
  return e;
}

std::string report(const Estimate& e, const config::Config& config, std::int64_t corpus_tokens) {
  Rows rows;
  add_model(e, rows);
  rows.push_back({"layout", fmt::format("{}: {}, {}", counted(e.layout.ranks(), "rank"),
                                        layout_text(e.layout), name_of(config.run.precision))});
  add_context(e, config, rows);
  add_memory(e, config.plan, rows);
  add_cache(e, config, rows);
  add_data(e, config, corpus_tokens, rows);
  add_cost(e, config, rows);
  return table(rows);
}

}  // namespace moesaic::plan
