#include "cli/score_reference.h"

#include <fmt/format.h>

#include <map>
#include <vector>

#include "base/error.h"
#include "base/text.h"
#include "checkpoint/gate_state.h"
#include "cli/checkpoint_model.h"
#include "config/compare.h"
#include "config/enum_names.h"
#include "config/layers.h"

namespace moesaic::cli {
namespace {

// The same model, held in other precision.
config::Config same_model(const config::Config& config, const checkpoint::ModelSource& source) {
  if (const auto type = source.quantized()) {
    throw Error(Exit::kUsage,
                fmt::format("score.reference = {}: {} has its weights in {} alone: name the "
                            "checkpoint or folder that it was made of",
                            config.score.reference, source.path().string(), name_of(*type)));
  }
  config::Config other = config;
  other.run.precision = config.score.reference == "bf16" ? DType::kBf16 : DType::kF32;
  other.run.quantize = std::nullopt;
  return other;
}

// model.path and what comes with it are those of the reference; windows are the model's.
config::Config other_model(config::Parsed parsed, const config::Config& config, int ranks,
                           checkpoint::Catalog& catalog) {
  std::erase_if(parsed.locations, [](const auto& location) {
    const std::string& key = location.first;
    return key.starts_with("model.") || key == "run.quantize";
  });
  parsed.config.model.path = config.score.reference;
  parsed.config.model.adapter.clear();
  parsed.config.run.quantize = std::nullopt;
  parsed.config.score.window = config.score.window;
  parsed.config.score.stride = config.score.stride;
  return config::checked(adopt_model(parsed, catalog), ranks);
}

// The expert pool of each MoE layer, a letter for each expert (routing::expert_pool_of).
std::vector<std::string> pools_of(const config::Config& config, const routing::GateState& gates) {
  std::vector<std::string> expert_pools;
  for (std::size_t layer = 0; layer < config::moe_layers(config.model).size(); ++layer) {
    expert_pools.push_back(routing::expert_pool_of(config.model, config.router, gates,
                                                   static_cast<std::int64_t>(layer)));
  }
  return expert_pools;
}

void check_same_shape(const config::Config& config, const routing::GateState& gates,
                      const Reference& reference) {
  const config::Config& other = reference.config;
  const config::Flat theirs = config::flatten(other);
  const std::map<std::string, std::string> values(theirs.begin(), theirs.end());
  std::vector<std::string> lines;
  for (const auto& [key, value] : config::flatten(config)) {
    if (key.starts_with("model.") && key != "model.path" && values.at(key) != value) {
      lines.push_back(fmt::format("{} = {}, but {} has {}", key, value, config.score.reference,
                                  values.at(key)));
    }
  }
  if (gates.tasks != reference.gates.tasks) {
    lines.emplace_back("its tasks are others");
  }
  const bool by_part = config.score.reference_detail != config::ReferenceDetail::kNone;
  if (by_part && pools_of(config, gates) != pools_of(other, reference.gates)) {
    lines.emplace_back("score.reference_detail compares experts one by one, and its are others");
  }
  if (!lines.empty()) {
    throw Error(Exit::kUsage,
                fmt::format("score.reference = {} is no model of this shape: use the "
                            "one that {} was made of\n{}",
                            config.score.reference, config.model.path, join(lines, "\n")));
  }
}

void check_detail(const config::Config& config) {
  const config::ReferenceDetail detail = config.score.reference_detail;
  if (includes(detail, config::ReferenceDetail::kLayers) && !config.run.quantize) {
    throw Error(Exit::kUsage,
                fmt::format("score.reference_detail = {} takes the layers' quantized weights in "
                            "turn, but {} has none: set run.quantize, or leave it out",
                            name_of(detail), config.model.path));
  }
  if (detail == config::ReferenceDetail::kExperts && config::moe_layers(config.model).empty()) {
    throw Error(Exit::kUsage,
                fmt::format("score.reference_detail = experts: {} has no experts: leave it out",
                            config.model.path));
  }
}

}  // namespace

Reference open_reference(const config::Parsed& parsed, const config::Config& config,
                         const routing::GateState& gates, int ranks, checkpoint::Catalog& catalog) {
  check_detail(config);
  const std::string& name = config.score.reference;
  const bool same = name == "bf16" || name == "fp32";
  checkpoint::ModelSource& source = same ? catalog.model(config.model) : catalog.model(name);
  Reference reference;
  if (same) {
    reference.config = same_model(config, source);
    reference.gates = gates;
  } else {
    reference.config = other_model(parsed, config, ranks, catalog);
    reference.gates = checkpoint::gates_of(source, reference.config);
    check_same_shape(config, gates, reference);
  }
  const config::Run& run = reference.config.run;
  const std::string precision =
      !run.quantize ? name_of(run.precision)
                    : fmt::format("{}, {}", name_of(*run.quantize), name_of(run.precision));
  reference.text = fmt::format("{}, {}", source.text(), precision);
  return reference;
}

}  // namespace moesaic::cli
