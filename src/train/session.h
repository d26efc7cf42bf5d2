#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>

#include "checkpoint/catalog.h"
#include "checkpoint/expert_pool_change.h"
#include "comm/watchdog.h"
#include "config/config.h"
#include "data/corpora.h"
#include "data/samples.h"
#include "engine/instance.h"
#include "train/resume.h"

namespace moesaic::train {

/// Where a run starts from: a checkpoint of its own, or the weights of model.path; both may be
/// missing.
struct Origin {
  std::optional<std::filesystem::path> resume;
  Progress progress = {};
  // It is the catalog's, and stays open where tensors are frozen; nullptr: random values.
  checkpoint::ModelSource* source = nullptr;
};

/// A training from its first start to its end. It starts again after a spike, or with other
/// experts. All that it refers to must outlive it.
struct Session {
  const config::Config& config;  // resolved
  routing::GateState gates = {};
  const comm::Mesh& mesh;
  data::Corpora& corpora;
  data::Samples& samples;        // of the corpora
  data::Corpora& eval_corpora;   // may be empty
  data::Samples& eval_samples;   // of these
  const RunData& data;           // of the corpora
  checkpoint::Catalog& catalog;  // with the model of the origin; emptied before the steps, unless
                                 // tensors are frozen
  comm::Watchdog& watchdog;
  Origin origin = {};
  double checkpoint_bytes = 0.0;                     // about; of one
  std::function<void()> on_begin = {};               // called once on rank 0, when a run begins
  std::map<std::string, std::string> sidecars = {};  // sidecar files of each checkpoint; on rank 0
  std::optional<engine::Instance> instance = {};
};

/// Makes the model and gives it the values of the origin. change: from its expert pools to those of
/// the session; nullptr: they are the same. Not collective. kMismatch, kBadData; kTerminated if
/// asked to stop.
void load(Session& session, const checkpoint::PoolChange* change = nullptr);

/// Saves a checkpoint of a run that stands here, with the tokenizer and the sidecar files, and
/// removes old ones as checkpoint.keep says. on_progress: called before each block. Returns its
/// folder. Collective over the mesh; throws AgreedError.
std::filesystem::path save(Session& session, const Progress& progress,
                           const std::function<void()>& on_progress);

/// Calls on_begin, once trace and routing record are open. Collective over the mesh.
void begin_outputs(Session& session);

/// Trains from what load has loaded. A rollback (train.rollbacks) goes back to the newest
/// checkpoint and leaves out the samples of the bad step; a change of experts (run.control) starts
/// from the checkpoint that was saved for it. Collective over the mesh. Returns and throws what
/// run_loop does; kStopped if it was asked to stop while it started again.
Exit run(Session& session);

}  // namespace moesaic::train
