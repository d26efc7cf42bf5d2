#pragma once

#include <functional>
#include <optional>
#include <vector>

#include "config/config.h"
#include "data/sample_order.h"
#include "data/samples.h"
#include "engine/instance.h"
#include "record/trace.h"

namespace moesaic::train {

/// The samples that an evaluation reads: all, or so many of each corpus that they have about
/// eval.tokens rows, in steps as even as can be.
class EvaluationSamples {
 public:
  EvaluationSamples(const data::Samples& samples, const config::Config& config);
  std::int64_t size() const { return begin_.back(); }
  /// The samples of a corpus follow each other.
  data::SampleDraw at(std::int64_t number) const;

 private:
  std::vector<std::int64_t> counts_;  // [corpora] all there are
  std::vector<std::int64_t> begin_;   // [corpora + 1] numbers
};

/// Loss on the evaluation corpora, by task and by corpus: all samples, or eval.tokens of them
/// spread evenly. Routed dropless unless router.eval_capacity. Collective over the mesh; the same
/// on every rank. go_on: asked on every rank after each group of micro-batches; where it says no,
/// on all ranks alike, evaluation ends with nothing.
std::optional<record::EvalRow> evaluate(engine::Instance& instance, const data::Corpora& corpora,
                                        data::Samples& samples, const config::Config& config,
                                        std::size_t tasks, std::int64_t step,
                                        const std::function<bool()>& go_on);

}  // namespace moesaic::train
