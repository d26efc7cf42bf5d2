#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "config/options.h"
#include "data/corpus/shard.h"
#include "engine/instance.h"
#include "support/shared_dir.h"

// What the tests of the score job have in common: a small model in a checkpoint, and a corpus.
namespace moesaic::infer {

namespace fs = std::filesystem;
using Documents = std::vector<data::DocumentRecord>;

constexpr std::int64_t kVocab = 50, kMaxSeq = 32;

/// The job with a watchdog.
int score(const config::Parsed& parsed, const comm::Communicator& world);

config::Config model_config();

data::DocumentRecord document(std::int64_t tokens, std::int64_t context, std::int64_t number);

/// Shard 0: documents without a target, pairs, and a whole one; 1: several batches; 2: none at all;
/// 3: longer than the model.
std::vector<Documents> shards();
void write_corpus(const fs::path& folder, const std::string& vocab_sha256,
                  const std::vector<Documents>& all = shards());

/// All tokens of a document that predict another one.
data::MicroBatch predicted(const data::DocumentRecord& record);

/// edit: what to change in the values of the seed; may be empty.
void write_checkpoint(const fs::path& dir, std::int64_t seed = 3,
                      const std::function<void(engine::Instance&)>& edit = {},
                      const config::Config& config = model_config());

class ScoreTest : public ::testing::Test {
 protected:
  ScoreTest() {
    if (world.is_root()) {
      write_corpus(dir / "corpus", "feed");
      write_checkpoint(dir / "checkpoints");
    }
    world.barrier();
  }

  config::Parsed command(const std::string& output) const {
    config::Parsed parsed;
    parsed.job = "score";
    parsed.config.model.path = (dir / "checkpoints").string();
    parsed.config.data.corpus = {(dir / "corpus").string()};
    parsed.config.score.output = (dir / output).string();
    parsed.config.run.precision = DType::kF32;
    parsed.config.run.threads = 1;
    return parsed;
  }

  const testing::SharedDir shared;
  const comm::Communicator& world = shared.world;
  const fs::path& dir = shared.path;
};

}  // namespace moesaic::infer
