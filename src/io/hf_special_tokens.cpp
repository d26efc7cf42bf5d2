#include <fmt/format.h>

#include <limits>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/error.h"
#include "io/hf_folder.h"
#include "io/hf_names.h"
#include "io/strict_json.h"

namespace moesaic::io {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr int kMostDepth = 32;

json content_of(const std::string& text, const fs::path& file) {
  if (text.empty()) {
    return json::object();
  }
  json content = parse_strict_json(text, kMostDepth, file.string() + ": the file");
  return content.is_object() ? content : json::object();
}

// A field of one token or several; empty: it is not there. Throws if it is something else.
std::vector<std::int32_t> tokens_of(const json& content, const char* name, const fs::path& file) {
  const json field = content.value(name, json());
  std::vector<std::int32_t> tokens;
  if (field.is_null()) {
    return tokens;
  }
  for (const json& token : field.is_array() ? field : json::array({field})) {
    if (!token.is_number_unsigned() ||
        token.get<std::uint64_t>() > std::numeric_limits<std::int32_t>::max()) {
      throw Error(Exit::kBadData, fmt::format("{}: {} {} is neither a token nor a list of tokens",
                                              file.string(), name, field.dump()));
    }
    tokens.push_back(token.get<std::int32_t>());
  }
  return tokens;
}

}  // namespace

SpecialTokens special_tokens(const HfTexts& texts, const fs::path& folder) {
  SpecialTokens special;
  for (const auto& [name, text] :
       {std::pair(kGenerationName, &texts.generation), std::pair(kConfigName, &texts.config)}) {
    const json content = content_of(*text, folder / name);
    const json bos = content.value("bos_token_id", json());
    if (special.bos.empty() && (bos.is_number_unsigned() || bos.is_array())) {  // else: none
      special.bos = tokens_of(content, "bos_token_id", folder / name);
    }
    if (special.eos.empty()) {
      special.eos = tokens_of(content, "eos_token_id", folder / name);
    }
  }
  return special;
}

}  // namespace moesaic::io
