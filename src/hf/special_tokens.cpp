#include <fmt/format.h>

#include <limits>
#include <utility>

#include "base/error.h"
#include "base/json.h"
#include "files/strict_json.h"
#include "hf/folder.h"
#include "hf/tensor_names.h"

namespace moesaic::hf {
namespace {

namespace fs = std::filesystem;

constexpr int kMostDepth = 32;

Json content_of(const std::string& text, const fs::path& file) {
  if (text.empty()) {
    return Json::object();
  }
  Json content = files::parse_strict_json(text, kMostDepth, file.string() + ": the file");
  return content.is_object() ? content : Json::object();
}

// A field of one token or several; empty: it is not there. Throws if it is something else.
std::vector<std::int32_t> tokens_of(const Json& content, const char* name, const fs::path& file) {
  const Json field = content.value(name, Json());
  std::vector<std::int32_t> tokens;
  if (field.is_null()) {
    return tokens;
  }
  for (const Json& token : field.is_array() ? field : Json::array({field})) {
    if (!token.is_count() ||
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
    const Json content = content_of(*text, folder / name);
    const Json bos = content.value("bos_token_id", Json());
    if (special.bos.empty() && (bos.is_count() || bos.is_array())) {  // else: none
      special.bos = tokens_of(content, "bos_token_id", folder / name);
    }
    if (special.eos.empty()) {
      special.eos = tokens_of(content, "eos_token_id", folder / name);
    }
  }
  return special;
}

}  // namespace moesaic::hf
