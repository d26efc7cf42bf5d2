#pragma once

#include <string_view>

#include "checkpoint/catalog.h"
#include "checkpoint/model_source.h"
#include "comm/communicator.h"
#include "config/options.h"
#include "data/corpus/corpus.h"

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

/// Throws kBadData unless the corpus has the vocabulary that the model was trained with. An empty
/// hash is unknown: bare shards have none, and Hugging Face folders, whose embedding may have more
/// rows than there are tokens.
void check_vocabulary(checkpoint::ModelSource& source, const data::CorpusInfo& corpus);

}  // namespace moesaic::cli
