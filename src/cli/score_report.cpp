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

std::string of_reference(const io::ScoreTotals& totals, const std::string& text) {
  const io::ReferenceTotals& reference = totals.reference;
  return fmt::format(
      "reference perplexity {} ({})\nKL divergence {} nats a token, at most {}\n"
      "same likeliest token {}",
      number(std::exp(-totals.per_token(reference.logprob))), text,
      nats(totals.per_token(reference.divergence)), nats(reference.largest),
      percent(static_cast<double>(reference.agreeing), static_cast<double>(totals.tokens)));
}

std::string by_layer(const io::ScoreTotals& totals) {
  const std::vector<double>& layers = totals.reference.details.layers;
  Rows rows = {{"in few bits alone", "KL, nats a token"}};
  for (std::size_t layer = 0; layer < layers.size(); ++layer) {
    const bool head = layer + 1 == layers.size();
    rows.push_back({head ? std::string("head") : fmt::format("layer {}", layer),
                    nats(totals.per_token(layers[layer]))});
  }
  return table(rows);
}

// Of a layer: its experts together, and the worst of them.
std::string by_expert(const io::ReferenceDetails& details) {
  Rows rows = {{"experts of", "error^2 / output^2", "worst expert"}};
  const auto experts = static_cast<std::size_t>(details.experts());
  for (std::size_t m = 0; m < details.expert_layers.size(); ++m) {
    double errors = 0.0, squares = 0.0, worst = -1.0;
    std::string which = "-";
    for (std::size_t e = 0; e < experts; ++e) {
      const std::size_t at = m * experts + e;
      errors += details.expert_errors[at];
      squares += details.expert_squares[at];
      const double share = details.expert_errors[at] / details.expert_squares[at];
      if (details.expert_squares[at] > 0.0 && share > worst) {
        worst = share;
        which = fmt::format("{}: {}, {:.0f} tokens", e, nats(share), details.expert_tokens[at]);
      }
    }
    rows.push_back({fmt::format("layer {}", details.expert_layers[m]),
                    squares > 0.0 ? nats(errors / squares) : std::string("-"), which});
  }
  return table(rows);
}

}  // namespace

std::string score_report(const io::ScoreTotals& totals, const std::string& output,
                         const std::string& reference) {
  std::vector<std::string> lines = {fmt::format("perplexity {}", number(totals.perplexity()))};
  if (!reference.empty()) {
    lines.push_back(of_reference(totals, reference));
  }
  const io::ReferenceDetails& details = totals.reference.details;
  if (!details.layers.empty()) {
    lines.push_back(by_layer(totals));
  }
  if (!details.expert_layers.empty()) {
    lines.push_back(by_expert(details));
  }
  lines.push_back(fmt::format("bits per byte {}\ntokens {} in {} documents\nscores: {}",
                              number(totals.bits_per_byte()), totals.tokens, totals.documents,
                              output));
  return join(lines, "\n");
}

}  // namespace moesaic::cli
