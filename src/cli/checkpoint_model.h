#pragma once

#include <functional>
#include <string_view>

#include "checkpoint/catalog.h"
#include "checkpoint/expert_pool_change.h"
#include "checkpoint/model_source.h"
#include "comm/watchdog.h"
#include "config/options.h"
#include "data/corpus/corpus.h"
#include "engine/instance.h"

namespace moesaic::cli {

/// With model.path set: the command's config with model.*, router.* and run.quantize from there. A
/// model.* key, or run.quantize, that was set to something else is an error (kUsage); router.* keys
/// that were set win. Training from, or converting, quantized weights is an error, too.
config::Parsed adopt_model(config::Parsed parsed, checkpoint::Catalog& catalog);

/// Throws kUsage if the weights are quantized. what: what to do with the original, as
/// "train from".
void refuse_quantized(const checkpoint::ModelSource& source, std::string_view what);

/// On rank 0, of a Hugging Face folder: throws kBadData with all that is wrong with its tensors,
/// and says what is left out.
void check_folder(checkpoint::ModelSource& source, const comm::Communicator& world);

/// To be called while tensors are read: a sign of life, and the place to stop (kTerminated).
std::function<void()> on_loading(comm::Watchdog& watchdog);
/// The values of a model's weights, from a checkpoint or a Hugging Face folder.
void load_values(engine::Instance& instance, checkpoint::ModelSource& source,
                 comm::Watchdog& watchdog);

/// Throws kBadData unless the corpus has the vocabulary that the model was trained with. An empty
/// hash is unknown: bare shards have none, and Hugging Face folders, whose embedding may have more
/// rows than there are tokens.
void check_vocabulary(checkpoint::ModelSource& source, const data::CorpusInfo& corpus);

/// What the gate's parameters follow: the expert pool of a model, with the
/// measured loads if parallel.placement wants them. Throws kUsage if the ranks are more than the
/// experts to share out, kMismatch if the model has other layers.
void adopt_pool(checkpoint::ModelSource& source, config::Config& config);
/// The same after a change, which is what the requests make of the model. config: with its expert
/// pool. Throws kUsage if it cannot be done.
checkpoint::PoolChange adopt_change(checkpoint::ModelSource& source,
                                    const std::vector<config::PoolRequest>& requests,
                                    config::Config& config);
/// Tasks, [0] = "none", that the gate has weights for.
void adopt_tasks(const std::vector<std::string>& tasks, config::Config& config);

}  // namespace moesaic::cli
