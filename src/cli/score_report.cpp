#include "cli/score_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/text.h"

namespace moesaic::cli {
namespace {

using Rows = std::vector<std::vector<std::string>>;

std::string number(double value) {
  return std::isnan(value) ? std::string("-") : fmt::format("{:.4f}", value);
}

std::string nats(double value) {
  return std::isnan(value) ? std::string("-") : fmt::format("{:.3g}", value);
}

std::string percent(double part, double whole) {
  return whole > 0.0 ? fmt::format("{:.2f} %", 100.0 * part / whole) : std::string("-");
}

std::string of_reference(const record::ScoreTotals& totals, const std::string& text) {
  const record::ReferenceTotals& reference = totals.reference;
  return fmt::format(
      "reference: {}\nreference perplexity {}\nKL divergence {} nats a token, at most {}\n"
      "same top-1 token {}\n",
      text, number(std::exp(-totals.per_token(reference.logprob))),
      nats(totals.per_token(reference.divergence)), nats(reference.largest),
      percent(static_cast<double>(reference.agreeing), static_cast<double>(totals.tokens)));
}

// Relative errors of MoE layer m: of all its experts together, and of the worst one.
std::vector<std::string> errors_of_experts(const record::ReferenceDetails& details, std::size_t m) {
  const auto experts = static_cast<std::size_t>(details.experts());
  double errors = 0.0, squares = 0.0, worst = -1.0;
  std::string which = "-";
  for (std::size_t at = m * experts; at < (m + 1) * experts; ++at) {
    errors += details.expert_errors[at];
    squares += details.expert_squares[at];
    const double share = details.expert_errors[at] / details.expert_squares[at];
    if (details.expert_squares[at] > 0.0 && share > worst) {
      worst = share;
      which = fmt::format("{} of expert {} on {:.0f} tokens", nats(share), at - m * experts,
                          details.expert_tokens[at]);
    }
  }
  return {squares > 0.0 ? nats(errors / squares) : std::string("-"), which};
}

// A row for each layer that something is known of, and the head.
std::string by_layer(const record::ScoreTotals& totals, const record::ReferenceDetails& details) {
  const bool layers = !details.layers.empty(), experts = !details.expert_layers.empty();
  Rows rows = {{""}};
  if (layers) {
    rows[0].emplace_back("KL if it alone differs");
  }
  if (experts) {
    rows[0].insert(rows[0].end(), {"experts' error^2 / output^2", "the largest"});
  }
  const std::int64_t last = layers ? std::ssize(details.layers) - 1 : details.expert_layers.back();
  for (std::int64_t layer = 0; layer <= last; ++layer) {
    const auto found = std::find(details.expert_layers.begin(), details.expert_layers.end(), layer);
    const bool has_experts = found != details.expert_layers.end();
    if (!layers && !has_experts) {
      continue;
    }
    const bool head = layers && layer == last;
    std::vector<std::string>& row = rows.emplace_back();
    row.push_back(head ? std::string("head") : fmt::format("layer {}", layer));
    if (layers) {
      row.push_back(nats(totals.per_token(details.layers[static_cast<std::size_t>(layer)])));
    }
    if (has_experts) {
      const auto m = static_cast<std::size_t>(found - details.expert_layers.begin());
      const std::vector<std::string> errors = errors_of_experts(details, m);
      row.insert(row.end(), errors.begin(), errors.end());
    }
  }
  return table(rows);
}

}  // namespace

std::string score_report(const record::ScoreTotals& totals, const std::string& output,
                         const std::string& reference) {
  std::string text = fmt::format("perplexity {}\nbits per byte {}\ntokens {} in {} documents\n",
                                 number(totals.perplexity()), number(totals.bits_per_byte()),
                                 totals.tokens, totals.documents);
  const record::ReferenceDetails& details = totals.reference.details;
  if (!reference.empty()) {
    text += of_reference(totals, reference);
  }
  if (!details.layers.empty() || !details.expert_layers.empty()) {
    text += by_layer(totals, details);
  }
  return text + "scores: " + output;
}

}  // namespace moesaic::cli
