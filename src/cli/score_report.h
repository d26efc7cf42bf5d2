#pragma once

#include <string>

#include "record/scores.h"

namespace moesaic::cli {

/// What a job that scored ends with: perplexity, and how far the model is from the reference, by
/// layer and by expert where that was asked for. reference: its text; empty: none.
std::string score_report(const record::ScoreTotals& totals, const std::string& output,
                         const std::string& reference);

}  // namespace moesaic::cli
