#pragma once

#include <string>
#include <vector>

#include "comm/watchdog.h"
#include "config/options.h"

// The jobs of the command line. Each returns the exit code; those that get a world are collective
// over it.
namespace moesaic::cli {

/// Text and JSONL -> corpus shards and manifest. config: resolved.
int tokenize(const config::Config& config, const comm::Communicator& world);

/// A corpus (and a checkpoint or other model) -> checkpoints and trace.
int train(const config::Parsed& parsed, const comm::Communicator& world, comm::Watchdog& watchdog);

/// The log-probability of every token of a corpus under a model.
int score(const config::Parsed& parsed, const comm::Communicator& world, comm::Watchdog& watchdog);

/// Continues every prompt of a corpus with a model.
int generate(const config::Parsed& parsed, const comm::Communicator& world,
             comm::Watchdog& watchdog);

/// `convert IN OUT`: a Hugging Face folder -> a checkpoint to start from, or a checkpoint -> a
/// Hugging Face folder. Tensors go through memory one at a time, shared out over the ranks; then
/// both models compute the same tokens and are compared.
int convert(const config::Parsed& parsed, const comm::Communicator& world,
            comm::Watchdog& watchdog);

/// A checkpoint -> the same one with other experts.
int experts(const config::Parsed& parsed, const comm::Communicator& world,
            comm::Watchdog& watchdog);

/// What a config will take on plan.ranks, and what is wrong with it. No MPI.
int plan(const config::Parsed& parsed);

/// Says of each corpus, checkpoint, trace or scores whether it is sound, or what is wrong with it.
/// 0, 65 (a problem), 66 (missing, or may not be read) or 74 (reading failed). No MPI.
int verify(const std::vector<std::string>& paths);
/// The same for one path, in this process.
int verify_here(const std::string& path);

}  // namespace moesaic::cli
