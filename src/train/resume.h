#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "checkpoint/lineage.h"
#include "config/config.h"
#include "data/corpora.h"
#include "hf/folder.h"
#include "routing/gate_state.h"

namespace moesaic {
class Json;
}

namespace moesaic::train {

/// Becomes an event of the trace when a run starts.
struct Note {
  std::string kind, message;
};

/// Where a run stands: everything of a checkpoint that is not a tensor.
struct Progress {
  std::int64_t step = 0;        // done
  std::int64_t cursor = 0;      // the first sample not yet used
  std::int64_t tokens = 0;      // positions trained on
  bool evaluation_due = false;  // that of this step was cut short by a stop
  std::vector<std::string> tasks = {"none"};
  hf::SpecialTokens special;  // of the model that training began with, or of the corpus
  std::string control;        // what is done of run.control, but not yet marked so (ControlFile)
  std::vector<double> losses = {};  // of the last steps (SpikeWatch)
  double save_seconds = 0.0;        // of the longest save that was measured; 0: unknown
  std::vector<Note> notes = {};
  checkpoint::Lineage lineage = {};  // of the run's first weights
  std::string objective = "lm";
};

/// The data of a run, as far as its place in them depends on it.
struct RunData {
  struct Text {
    std::string fingerprint;
    std::int64_t tokens = 0;
    bool operator==(const Text&) const = default;
  };
  std::string vocab_sha256;
  std::vector<Text> corpora = {};  // those to train on; none: unknown
};
RunData data_of(const data::Corpora& corpora);

/// Begin and end tokens of the corpus, where the model has none.
void add_special(const data::CorpusInfo& corpus, hf::SpecialTokens& special);

/// The "state" of a checkpoint's manifest.
std::shared_ptr<const Json> to_state(const Progress& progress, const config::Config& config,
                                     const routing::GateState& gates, const std::string& layout,
                                     const RunData& data);
Progress from_state(const Json& state);
/// The config that the state was saved with.
config::Config config_of(const Json& state);

/// The checkpoint that checkpoint.resume asks for; nothing: a fresh start. In a job that Slurm
/// started again also the newest one that it saved before, whatever it began from. Throws kNoInput
/// if a named one does not exist.
std::optional<std::filesystem::path> checkpoint_to_resume(const config::Checkpoint& config);

/// Throws kMismatch with a table of key / was / is if the state belongs to another run than the
/// config, or to other text, as far as checkpoint.allow does not permit it. The same text may lie
/// elsewhere. Returns the progress to continue from.
Progress check_resume(const Json& state, const config::Config& config, const RunData& data,
                      const std::filesystem::path& path);

}  // namespace moesaic::train
