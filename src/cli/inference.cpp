#include "cli/inference.h"

#include <fmt/format.h>

#include "base/version.h"
#include "cli/checkpoint_model.h"
#include "cli/facts.h"
#include "config/compare.h"
#include "io/files.h"
#include "io/model_source.h"

namespace moesaic::cli {

comm::Facts facts_of(const config::Config& config, const infer::ScoreCorpora& corpora) {
  comm::Facts facts = facts_of(config);
  facts.push_back(fact_of_model(config.model.path));
  std::vector<io::ShardInfo> shards;
  for (std::int64_t shard = 0; shard < corpora.shards(); ++shard) {
    shards.push_back(corpora.info(shard));
  }
  facts.push_back(fact_of("data.corpus", shards));
  return facts;
}

std::string provenance(const config::Config& config, const infer::ScoreCorpora& corpora,
                       const std::function<bool(std::string_view key)>& counts) {
  std::string text = fmt::format("moesaic {} {}\n", version(), git_hash());
  text += io::ModelSource::open(config.model.path).fingerprint() + "\n";
  for (std::int64_t shard = 0; shard < corpora.shards(); ++shard) {
    const io::ShardInfo& info = corpora.info(shard);
    text += fmt::format("{} {}\n", info.file.filename().string(),
                        info.sha256.empty() ? io::sha256_of_file(info.file) : info.sha256);
  }
  for (const auto& [key, value] : config::flatten(config)) {
    if (counts(key)) {
      text += fmt::format("{} = {}\n", key, value);
    }
  }
  return text;
}

void set_up(std::optional<model::Instance>& instance, const config::Config& config,
            const comm::Mesh& mesh, const comm::Communicator& world, comm::Watchdog& watchdog,
            model::Use use) {
  world.together("set up the model", [&] {
    check_folder(config.model.path, world);
    instance.emplace(config, mesh, use);
    load_values(*instance, config.model.path, watchdog);
  });
}

}  // namespace moesaic::cli
