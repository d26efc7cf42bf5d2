#include "hf/config_parts.h"

#include <fmt/format.h>

#include <variant>

#include "base/json.h"
#include "config/layers.h"

namespace moesaic::hf {
namespace {

constexpr std::int64_t kMostLayers = 10'000, kMostExperts = 65'536;
constexpr std::int64_t kMostInAll = 100'000;  // layers x experts

template <class T>
using ModelMember = T config::Model::*;

/// The largest number that a field may have.
std::int64_t most_of(ModelMember<std::int64_t> member) {
  return member == &config::Model::layers    ? kMostLayers
         : member == &config::Model::experts ? kMostExperts
                                             : HfFields::kMostCount;
}

template <class T>
T& value_of(HfConfig& config, T config::Model::*member) {
  return config.model.*member;
}
template <class T>
T& value_of(HfConfig& config, T config::Router::*member) {
  return config.router.*member;
}

template <class Section>
void read_field(const Field& field, Reading& r, std::int64_t Section::*member) {
  const auto absent = static_cast<std::int64_t>(field.absent);
  const auto otherwise = absent > 0 ? std::optional(absent) : std::nullopt;
  value_of(r.config, member) =
      field.may_be_null ? r.fields.optional_count(field.name, otherwise, field.least).value_or(0)
                        : r.fields.count(field.name, absent, field.least, most_of(member));
}

template <class Section>
void read_field(const Field& field, Reading& r, double Section::*member) {
  value_of(r.config, member) = field.may_be_null
                                   ? r.fields.optional_number(field.name).value_or(field.absent)
                                   : r.fields.number(field.name, field.absent);
}

template <class Section>
void read_field(const Field& field, Reading& r, bool Section::*member) {
  value_of(r.config, member) = r.fields.flag(field.name, field.absent != 0.0);
}

}  // namespace

void read_fields(std::span<const Field> fields, Reading& r) {
  for (const Field& field : fields) {
    std::visit([&](auto member) { read_field(field, r, member); }, field.member);
  }
}

void write_fields(std::span<const Field> fields, const config::Model& model,
                  const config::Router& router, Json& json) {
  HfConfig config;
  config.model = model;
  config.router = router;
  for (const Field& field : fields) {
    std::visit(
        [&](auto member) {
          const auto value = value_of(config, member);
          json[field.name] = field.may_be_null && value == 0 ? Json(nullptr) : Json(value);
        },
        field.member);
  }
}

void note_loss(Reading& r, const std::string& name) {
  const double value = r.fields.number(name, 0.0);
  if (value > 0.0) {
    r.config.notes.push_back(
        fmt::format("{} = {} is not used: router.aux_loss sets how much balance counts in training",
                    name, value));
  }
}

void read_heads(Reading& r, std::optional<std::int64_t> kv_heads,
                std::optional<std::int64_t> head_dim) {
  config::Model& m = r.config.model;
  m.kv_heads = r.fields.optional_count("num_key_value_heads", kv_heads).value_or(m.heads);
  if (m.heads % m.kv_heads != 0) {
    r.fields.conflict("num_key_value_heads", {"num_attention_heads"},
                      fmt::format("does not divide {} heads", m.heads));
  }
  const auto dim = r.fields.optional_count("head_dim", head_dim);
  if (!dim && m.d_model % m.heads != 0) {
    r.fields.conflict("head_dim", {"num_attention_heads", "hidden_size"},
                      fmt::format("is needed: {} heads do not divide {}", m.heads, m.d_model));
  }
  m.head_dim = dim.value_or(m.d_model / m.heads);
}

void write_heads(const config::Model& model, Json& json) {
  json["num_key_value_heads"] = model.kv_heads;
  json["head_dim"] = model.head_dim;
}

void check_experts(Reading& r, const char* count) {
  const config::Model& m = r.config.model;
  if (m.experts * m.layers > kMostInAll) {
    r.fields.conflict(count, {"num_hidden_layers"},
                      fmt::format("is too many for {} layers", m.layers));
  }
  if (m.top_k > m.experts) {
    r.fields.conflict("num_experts_per_tok", {count},
                      fmt::format("is more than there are experts ({})", m.experts));
  }
}

void read_groups(Reading& r, std::int64_t groups, std::int64_t top) {
  const config::Model& m = r.config.model;
  if (m.experts % groups != 0) {
    r.fields.conflict("n_group", {"n_routed_experts"},
                      fmt::format("does not divide {} experts", m.experts));
  } else if (top > groups || m.top_k > m.experts / groups * top) {
    r.fields.conflict("topk_group", {"n_routed_experts", "n_group", "num_experts_per_tok"},
                      fmt::format("does not suit {} groups of {} experts and {} for each token",
                                  groups, m.experts / groups, m.top_k));
  }
  r.config.router.groups = groups;
  r.config.router.top_groups = top;
}

void read_windows(Reading& r, std::optional<std::int64_t> width,
                  const std::vector<std::string>& types) {
  config::Model& m = r.config.model;
  std::vector<std::int64_t> with;
  for (std::size_t i = 0; i < types.size(); ++i) {
    if (types[i] == "sliding_attention") {
      with.push_back(static_cast<std::int64_t>(i));
    } else if (types[i] != "full_attention") {
      r.fields.problem("layer_types", "holds what is neither sliding_attention nor full_attention");
      return;
    }
  }
  if (std::ssize(types) != m.layers) {
    r.fields.conflict("layer_types", {"num_hidden_layers"},
                      fmt::format("has {} entries for {} layers", types.size(), m.layers));
  } else if (!with.empty() && !width) {
    r.fields.conflict("layer_types", {"sliding_window"},
                      "has windows, but there is no sliding_window");
  } else if (!with.empty()) {
    m.sliding_window = *width;
    m.window_layers = std::ssize(with) == m.layers ? std::vector<std::int64_t>() : with;
  }
}

Json layer_types(const config::Model& model) {
  Json types = Json::array();
  for (std::int64_t layer = 0; layer < model.layers; ++layer) {
    types.push_back(config::is_windowed(model, layer) ? "sliding_attention" : "full_attention");
  }
  return types;
}

void read_quantization(Reading& r) {
  const Json found = r.fields.object("quantization_config");
  if (found.is_null()) {
    return;
  }
  const std::string method = found.contains("quant_method") ? found["quant_method"].dump() : "none";
  if (method != "\"fp8\"") {
    r.fields.problem(
        "quantization_config",
        fmt::format("has quant_method {}, which is not supported: only fp8 is", method));
    return;
  }
  HfFields part(found, "fp8", "quantization_config.");
  part.must_be("fmt", "e4m3");
  part.must_be("activation_scheme", "dynamic");
  part.must_be("weight_block_size", Json::array({128, 128}));
  if (!part.has("weight_block_size")) {
    part.problem("weight_block_size", "is missing");
  }
  part.ignore({"quant_method", "modules_to_not_convert"});  // the tensors' formats say which
  for (const std::string& problem : part.problems()) {
    r.fields.add(problem);
  }
  r.config.has_fp8 = true;
}

}  // namespace moesaic::hf
