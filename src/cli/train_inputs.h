#pragma once

#include "checkpoint/catalog.h"
#include "config/options.h"
#include "data/corpora.h"
#include "data/samples.h"
#include "train/session.h"

namespace moesaic::cli {

/// What a training reads before it begins, checked: the same for the job and for its plan.
struct TrainInputs {
  config::Config config;  // model.vocab_size is that of the corpora
  routing::GateState gates;
  data::Corpora corpora, eval_corpora;
  data::Samples samples, eval_samples;  // of these, once find_samples has found them
};

/// Throws what is wrong with the config, the corpora or the checkpoint of model.path.
TrainInputs read_train_inputs(const config::Parsed& parsed, int ranks,
                              checkpoint::Catalog& catalog);

/// Finds the samples of the corpora, and with train.epochs the length of the run. Collective over
/// world, whose ranks share out the tables of documents. Throws what data::Samples does, and
/// kBadData if a corpus has no document to train or evaluate on. The samples refer to the corpora,
/// which stay where they are.
void find_samples(TrainInputs& inputs, const comm::Communicator& world);

/// What became of the documents, where they are the samples, as rows of a table.
std::vector<std::vector<std::string>> document_rows(const TrainInputs& inputs);

/// Throws kNoInput if nothing is to be predicted in what is trained on, or in what an evaluation
/// reads of a corpus. Reads a sample of each, or more until one has a target: on one rank is
/// enough.
void check_targets(TrainInputs& inputs);

/// Completes the origin, of which resume is known, and the inputs with what is known of the model
/// before its parameters are: experts and tasks, those of the checkpoint first. Throws if the run
/// may not start so.
void adopt_origin(TrainInputs& inputs, const train::RunData& data, checkpoint::Catalog& catalog,
                  train::Origin& origin);

}  // namespace moesaic::cli
