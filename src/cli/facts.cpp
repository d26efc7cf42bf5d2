#include "cli/facts.h"

#include <fmt/format.h>

#include "base/sha256.h"
#include "base/text.h"
#include "config/compare.h"
#include "io/files.h"

namespace moesaic::cli {

comm::Facts facts_of(const config::Parsed& parsed) {
  comm::Facts facts = comm::program_facts();
  facts.emplace_back("job", fmt::format("{} {}", parsed.job, join(parsed.arguments, " ")));
  for (auto& fact : facts_of(parsed.config)) {
    facts.push_back(std::move(fact));
  }
  return facts;
}

comm::Facts facts_of(const config::Config& config) { return config::flatten(config); }

comm::Facts::value_type fact_of(std::string_view name, const std::vector<io::ShardInfo>& shards) {
  std::string text;
  std::int64_t tokens = 0;
  for (const io::ShardInfo& shard : shards) {
    tokens += shard.tokens;
    text += fmt::format("\n{} {} {} {} {}", shard.file.string(), shard.bytes, shard.tokens,
                        shard.documents, shard.sha256);
  }
  return {fmt::format("files of {}", name),
          fmt::format("{} shards, {} tokens, SHA-256 {}", shards.size(), tokens,
                      Sha256::of(std::as_bytes(std::span(text))).substr(0, 16))};
}

comm::Facts::value_type fact_of_model(const std::filesystem::path& path) {
  if (path.empty()) {
    return {"model", ""};
  }
  const auto source = io::ModelSource::open(path);
  return {"model", fmt::format("{}, SHA-256 {}", source.path().string(),
                               source.fingerprint(io::ModelSource::Times::kIgnored).substr(0, 16))};
}

}  // namespace moesaic::cli
