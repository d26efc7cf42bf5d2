#include "checkpoint/lineage.h"

#include <fmt/format.h>

#include "base/json.h"

namespace moesaic::checkpoint {
namespace {

std::string described(const std::string& path, std::int64_t step, const std::string& fingerprint,
                      const std::string& objective) {
  const std::string where = step < 0 ? "Hugging Face folder" : fmt::format("step {}", step);
  return fmt::format("{} ({}{}{})", path, where, objective.empty() ? "" : ", " + objective,
                     fingerprint.empty() ? "" : fmt::format(", {:.12}", fingerprint));
}

}  // namespace

Json to_json(const Lineage& lineage) {
  Json list = Json::array();
  for (const Ancestor& ancestor : lineage) {
    list.push_back({{"path", ancestor.path},
                    {"adapter", ancestor.adapter},
                    {"step", ancestor.step},
                    {"fingerprint", ancestor.fingerprint},
                    {"objective", ancestor.objective}});
  }
  return list;
}

Lineage lineage_of(const Json& state) {
  Lineage lineage;
  for (const Json& entry : state.value("lineage", Json::array())) {
    lineage.push_back({.path = entry.at("path").string(),
                       .adapter = entry.at("adapter").string(),
                       .step = entry.at("step").get<std::int64_t>(),
                       .fingerprint = entry.at("fingerprint").string(),
                       .objective = entry.at("objective").string()});
  }
  return lineage;
}

bool needs_base(const Json& state) { return state.value("content", "all") == "trained"; }

std::vector<std::string> lineage_text(const Json& state) {
  std::vector<std::string> lines;
  for (const Ancestor& ancestor : lineage_of(state)) {
    const std::string with = ancestor.adapter.empty() ? "" : " with " + ancestor.adapter;
    lines.push_back("from " + described(ancestor.path + with, ancestor.step, ancestor.fingerprint,
                                        ancestor.objective));
  }
  return lines;
}

}  // namespace moesaic::checkpoint
