#include <fmt/format.h>

#include <limits>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "io/files.h"
#include "io/hf_folder.h"
#include "io/strict_json.h"

namespace moesaic::io {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr int kMostDepth = 32;
constexpr std::uintmax_t kMostBytes = 16'000'000;

// The field of a file; null: the file or the field is not there.
json end_field(const fs::path& file) {
  if (!fs::exists(file)) {
    return nullptr;
  }
  if (fs::file_size(file) > kMostBytes) {
    throw Error(Exit::kBadData,
                fmt::format("{}: is larger than {} bytes", file.string(), kMostBytes));
  }
  const json content =
      parse_strict_json(read_whole(file), kMostDepth, file.string() + ": the file");
  return content.is_object() ? content.value("eos_token_id", json()) : json();
}

}  // namespace

std::vector<std::int32_t> end_tokens(const fs::path& folder) {
  fs::path file = folder / "generation_config.json";
  json field = end_field(file);
  if (field.is_null()) {
    file = folder / "config.json";
    field = end_field(file);
  }
  if (field.is_null()) {
    return {};
  }
  std::vector<std::int32_t> tokens;
  for (const json& token : field.is_array() ? field : json::array({field})) {
    if (!token.is_number_unsigned() ||
        token.get<std::uint64_t>() > std::numeric_limits<std::int32_t>::max()) {
      throw Error(Exit::kBadData,
                  fmt::format("{}: eos_token_id {} is neither a token nor a list of "
                              "tokens",
                              file.string(), field.dump()));
    }
    tokens.push_back(token.get<std::int32_t>());
  }
  return tokens;
}

}  // namespace moesaic::io
