#include "cli/inference.h"

#include <fmt/format.h>

#include "base/version.h"
#include "cli/checkpoint_model.h"
#include "cli/facts.h"
#include "config/compare.h"
#include "files/durable.h"

namespace moesaic::cli {

comm::Facts facts_of(const config::Config& config, checkpoint::Catalog& catalog) {
  comm::Facts facts = facts_of(config);
  facts.push_back(fact_of(catalog.model(config.model.path)));
  return facts;
}

std::string provenance(const config::Config& config, const data::ScoreCorpora& corpora,
                       const checkpoint::ModelSource& model,
                       const std::function<bool(std::string_view key)>& counts) {
  std::string text = fmt::format("moesaic {} {}\n", version(), git_hash());
  text += model.fingerprint() + "\n";
  for (std::int64_t shard = 0; shard < corpora.shards(); ++shard) {
    const data::ShardInfo& info = corpora.info(shard);
    text += fmt::format("{} {}\n", info.file.filename().string(),
                        info.sha256.empty() ? files::sha256_of_file(info.file) : info.sha256);
  }
  for (const auto& [key, value] : config::flatten(config)) {
    if (counts(key)) {
      text += fmt::format("{} = {}\n", key, value);
    }
  }
  return text;
}

void set_up(std::optional<engine::Instance>& instance, const config::Config& config,
            const comm::Mesh& mesh, checkpoint::Catalog& catalog, comm::Watchdog& watchdog,
            engine::Use use) {
  mesh.world.together("set up the model", [&] {
    checkpoint::ModelSource& source = catalog.model(config.model.path);
    check_folder(source, mesh.world);
    instance.emplace(config, mesh, use);
    load_values(*instance, source, watchdog);
  });
}

}  // namespace moesaic::cli
