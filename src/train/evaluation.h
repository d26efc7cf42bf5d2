#pragma once

#include <functional>
#include <optional>
#include <vector>

#include "config/config.h"
#include "data/corpora.h"
#include "engine/instance.h"
#include "record/trace.h"

namespace moesaic::train {

/// The samples that an evaluation reads: all, or a share of each corpus in steps as even as can be.
std::vector<data::SampleLocation> evaluation_samples(const data::Corpora& corpora,
                                                     const config::Config& config);

/// Loss on the evaluation corpora, by task and by corpus: all samples, or eval.tokens of them
/// spread evenly. Routed dropless unless router.eval_capacity. Collective over the mesh; the same
/// on every rank. go_on: asked on every rank after each group of micro-batches; where it says no,
/// on all ranks alike, evaluation ends with nothing.
std::optional<record::EvalRow> evaluate(engine::Instance& instance, data::Corpora& corpora,
                                        const config::Config& config, std::size_t tasks,
                                        std::int64_t step, const std::function<bool()>& go_on);

}  // namespace moesaic::train
