#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "base/json.h"
#include "base/text.h"
#include "files/durable.h"
#include "files/strict_json.h"
#include "hf/config.h"
#include "hf/reading.h"

namespace moesaic::hf {
namespace {

constexpr int kMostDepth = 8;

Json parse_object(const std::string& text, const std::string& where) {
  Json object = files::parse_strict_json(text, kMostDepth, where + ": the file");
  if (!object.is_object() || !object.contains("model_type") || !object["model_type"].is_string()) {
    throw Error(Exit::kBadData, fmt::format("{}: has no model_type", where));
  }
  return object;
}

}  // namespace

HfConfig parse_hf_config(const std::string& text, const std::string& where) {
  const Json object = parse_object(text, where);
  const auto type = object["model_type"].get<std::string>();
  const auto* const found = std::find(kHfFamilyNames.begin(), kHfFamilyNames.end(), type);
  if (found == kHfFamilyNames.end()) {
    throw Error(
        Exit::kBadData,
        fmt::format(
            "{}: model_type '{}' is not supported ({} are)", where, type,
            join(std::vector<std::string>(kHfFamilyNames.begin(), kHfFamilyNames.end()), ", ")));
  }
  const auto number = static_cast<std::size_t>(found - kHfFamilyNames.begin());
  Reading reading{HfFields(object, type), {}};
  reading.config.family = static_cast<HfFamily>(number);
  set_absent(reading);
  read_family(reading);
  read_quantization(reading);
  const std::vector<std::string> problems = reading.fields.problems();
  if (!problems.empty()) {
    throw Error(Exit::kBadData,
                fmt::format("{}: this model cannot be used as it is described:\n  {}", where,
                            join(problems, "\n  ")));
  }
  return std::move(reading.config);
}

}  // namespace moesaic::hf
