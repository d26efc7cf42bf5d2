#include "plan/report.h"

#include <fmt/format.h>

#include <string_view>
#include <vector>

#include "base/text.h"
#include "config/enum_names.h"
#include "config/validate.h"

namespace moesaic::plan {
namespace {

using Rows = std::vector<std::vector<std::string>>;

std::string count(std::int64_t value) { return short_count(static_cast<double>(value)); }

void add_model(const Estimate& e, Rows& rows) {
  const Count all = e.size.sum();
  rows.push_back({"model", fmt::format("{} parameters, {} active for one token", count(all.total),
                                       count(all.active))});
  if (e.size.embedding.total == 0) {
    rows.push_back({"", "without embedding and head: model.vocab_size is not known yet"});
  }
  for (const auto& [name, part] : e.size.classes()) {
    if (part.total > 0) {
      rows.push_back({fmt::format("  {}", name),
                      part.total == part.active
                          ? count(part.total)
                          : fmt::format("{}, {} active", count(part.total), count(part.active))});
    }
  }
}

void add_memory(const Estimate& e, const config::Plan& plan, Rows& rows) {
  rows.push_back({"memory", short_bytes(e.memory.sum()) + " on each rank (balanced experts)"});
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

void add_data(const Estimate& e, const config::Config& config, std::int64_t corpus_tokens,
              Rows& rows) {
  if (corpus_tokens > 0) {
    rows.push_back({"data", count(corpus_tokens) + " tokens"});
  }
  if (e.job != "train") {
    return;
  }
  std::string length =
      fmt::format("{} steps of {} tokens = {} tokens", e.steps,
                  count(config.train.batch * config.data.seq_len), short_count(e.tokens));
  if (corpus_tokens > 0) {
    length += fmt::format(", {:.2f} epochs", e.tokens / static_cast<double>(corpus_tokens));
  }
  rows.push_back({"run", length});
}

void add_cost(const Estimate& e, Rows& rows) {
  if (e.job != "train") {
    rows.push_back({"FLOP", short_count(e.flop.forward) + " for one token"});
    return;
  }
  rows.push_back({"FLOP", fmt::format("{} for one token ({} forward), {} for the run",
                                      short_count(e.flop.training), short_count(e.flop.forward),
                                      short_count(e.flop.training * e.tokens))});
  rows.push_back(
      {"traffic", fmt::format("a rank sends in one step: {} tokens (ep), {} expert gradients (dp), "
                              "{} other gradients (dp x ep)",
                              short_bytes(e.traffic.ep), short_bytes(e.traffic.dp),
                              short_bytes(e.traffic.replicas))});
  rows.push_back({"checkpoint", short_bytes(e.checkpoint_bytes)});
}

}  // namespace

Estimate estimate(const config::Config& config, int ranks) {
  const bool training = config.plan.job != "score";
  Estimate e;
  e.job = config.plan.job;
  e.size = model_size(config);
  e.layout = {config.parallel.ep, ranks / config.parallel.ep};
  e.memory = memory_per_rank(config, e.layout, training);
  e.flop = flop_per_token(config, training ? config.data.seq_len : config.score.window);
  if (training) {
    e.traffic = traffic_per_step(config, e.layout);
    e.checkpoint_bytes = 12.0 * static_cast<double>(e.size.sum().total);
    e.steps = config::total_steps(config);
    e.tokens = static_cast<double>(e.steps) *
               static_cast<double>(config.train.batch * config.data.seq_len);
  }
  return e;
}

std::string report(const Estimate& e, const config::Config& config, std::int64_t corpus_tokens) {
  Rows rows;
  add_model(e, rows);
  rows.push_back(
      {"layout", fmt::format("{} ranks: tp=1 pp=1 ep={} dp={}, {}", e.layout.ranks(), e.layout.ep,
                             e.layout.dp, config::name_of(config.run.precision))});
  add_memory(e, config.plan, rows);
  add_data(e, config, corpus_tokens, rows);
  add_cost(e, rows);
  return table(rows);
}

}  // namespace moesaic::plan
