#include "cli/facts.h"

#include <fmt/format.h>

#include "base/sha256.h"
#include "base/text.h"
#include "config/compare.h"
#include "files/durable.h"

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

comm::Facts::value_type fact_of(const checkpoint::ModelSource& source) {
  return {"model",
          fmt::format("{}, SHA-256 {}", source.path().string(),
                      source.fingerprint(checkpoint::ModelSource::Times::kIgnored).substr(0, 16))};
}

}  // namespace moesaic::cli
