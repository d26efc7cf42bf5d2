#include "hf/rope.h"

#include <fmt/format.h>

#include "base/json.h"

namespace moesaic::hf {
namespace {

constexpr double kBetaFast = 32.0, kBetaSlow = 1.0;  // of YaRN, where they are absent or 0

std::string text_of(double value) { return fmt::format("{}", value); }

/// The object with the kind of scaling, and theta in it if it is anywhere.
Json scaling_of(HfFields& fields) {
  Json scaling = fields.object("rope_scaling");
  const Json parameters = fields.object("rope_parameters");
  if (!scaling.is_null() && !parameters.is_null() && scaling != parameters) {
    fields.problem("rope_scaling", "contradicts rope_parameters");
  }
  if (!parameters.is_null()) {
    scaling = parameters;
  }
  return scaling;
}

void read_yarn(HfFields& part, std::int64_t max_seq, HfKeys& keys) {
  const auto original = part.count("original_max_position_embeddings", max_seq);
  const auto factor = part.optional_number("factor");
  const double ratio = static_cast<double>(max_seq) / static_cast<double>(original);
  const auto or_default = [&](const char* name, double otherwise) {
    const double value = part.optional_number(name).value_or(0.0);
    return text_of(value == 0.0 ? otherwise : value);
  };
  keys["model.rope_factor"] = text_of(factor.value_or(ratio));
  keys["model.rope_original_max_seq"] = std::to_string(original);
  keys["model.rope_beta_fast"] = or_default("beta_fast", kBetaFast);
  keys["model.rope_beta_slow"] = or_default("beta_slow", kBetaSlow);
  keys["model.rope_attention_factor"] = or_default("attention_factor", 0.0);
  keys["model.rope_mscale"] = or_default("mscale", 0.0);
  keys["model.rope_mscale_all_dim"] = or_default("mscale_all_dim", 0.0);
  keys["model.rope_truncate"] = part.flag("truncate", true) ? "1" : "0";
  part.ignore({"finetuned"});
}

}  // namespace

void read_rope(HfFields& fields, double theta, const Json& yarn, HfKeys& keys) {
  keys["model.rope_scaling"] = "none";
  keys["model.rope_factor"] = "1";
  keys["model.rope_original_max_seq"] = "0";
  keys["model.rope_beta_fast"] = text_of(kBetaFast);
  keys["model.rope_beta_slow"] = text_of(kBetaSlow);
  keys["model.rope_attention_factor"] = "0";
  keys["model.rope_mscale"] = "0";
  keys["model.rope_mscale_all_dim"] = "0";
  keys["model.rope_truncate"] = "1";
  fields.must_be("partial_rotary_factor", 1.0);

  const double outside = fields.number("rope_theta", theta);
  Json scaling = scaling_of(fields);
  if (scaling.is_null()) {
    scaling = yarn;
  }
  HfFields part(scaling.is_null() ? Json::object() : scaling, "rotary embedding",
                fields.has("rope_parameters") ? "rope_parameters." : "rope_scaling.");
  part.same("rope_type", "type");
  part.must_be("partial_rotary_factor", 1.0);
  const double inside = part.number("rope_theta", outside);
  if (fields.has("rope_theta") && inside != outside) {
    part.problem("rope_theta", fmt::format("contradicts rope_theta = {} outside of it", outside));
  }
  if (inside <= 1.0) {
    part.problem("rope_theta", "is too small: it must be above 1");
  }
  keys["model.rope_theta"] = text_of(inside);

  const std::string kind = part.text("rope_type", "default");
  if (kind == "linear") {
    keys["model.rope_scaling"] = kind;
    if (!part.has("factor")) {
      part.problem("factor", "is missing");
    }
    keys["model.rope_factor"] = text_of(part.number("factor", 1.0));
  } else if (kind == "yarn") {
    keys["model.rope_scaling"] = kind;
    read_yarn(part, integer_of(keys, "model.max_seq"), keys);
  } else if (kind != "default") {
    fields.problem(fields.has("rope_parameters") ? "rope_parameters" : "rope_scaling",
                   fmt::format("has kind '{}', which is not supported (default, linear and yarn "
                               "are)",
                               kind));
    return;  // its fields are of that kind
  }
  if (number_of(keys, "model.rope_factor") == 0.0) {
    part.problem("factor", "must be above 0");
  }
  for (const std::string& problem : part.problems()) {
    fields.add(problem);
  }
}

void write_rope(const HfKeys& keys, Json& config) {
  config["rope_theta"] = number_of(keys, "model.rope_theta");
  const std::string& kind = keys.at("model.rope_scaling");
  if (kind == "none") {
    config["rope_scaling"] = nullptr;
    return;
  }
  Json& scaling = config["rope_scaling"] = {{"type", kind}, {"rope_type", kind}};
  scaling["factor"] = number_of(keys, "model.rope_factor");
  if (kind == "linear") {
    return;
  }
  scaling["original_max_position_embeddings"] = integer_of(keys, "model.rope_original_max_seq");
  scaling["beta_fast"] = number_of(keys, "model.rope_beta_fast");
  scaling["beta_slow"] = number_of(keys, "model.rope_beta_slow");
  scaling["truncate"] = integer_of(keys, "model.rope_truncate") != 0;
  for (const char* name : {"attention_factor", "mscale", "mscale_all_dim"}) {
    const double value = number_of(keys, std::string("model.rope_") + name);
    if (value != 0.0) {
      scaling[name] = value;
    }
  }
}

}  // namespace moesaic::hf
