#include "cli/inference.h"

#include <fmt/format.h>

#include "base/version.h"
#include "cli/checkpoint_model.h"
#include "cli/facts.h"
#include "config/compare.h"
#include "io/files.h"

namespace moesaic::cli {

comm::Facts facts_of(const config::Config& config, io::Catalog& catalog) {
  comm::Facts facts = facts_of(config);
  facts.push_back(fact_of(catalog.model(config.model.path)));
  return facts;
}

std::string provenance(const config::Config& config, const infer::ScoreCorpora& corpora,
                       const io::ModelSource& model,
                       const std::function<bool(std::string_view key)>& counts) {
  std::string text = fmt::format("moesaic {} {}\n", version(), git_hash());
  text += model.fingerprint() + "\n";
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
            const comm::Mesh& mesh, io::Catalog& catalog, comm::Watchdog& watchdog,
            model::Use use) {
  mesh.world.together("set up the model", [&] {
    io::ModelSource& source = catalog.model(config.model.path);
    check_folder(source, mesh.world);
    instance.emplace(config, mesh, use);
    load_values(*instance, source, watchdog);
  });
}

}  // namespace moesaic::cli
