#include "hf/rope.h"

#include <fmt/format.h>

#include "base/json.h"

namespace moesaic::hf {
namespace {

constexpr double kBetaFast = 32.0, kBetaSlow = 1.0;  // of YaRN, where they are absent or 0

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

void read_yarn(HfFields& part, config::Model& m) {
  const auto or_default = [&](const char* name, double otherwise) {
    const double value = part.optional_number(name).value_or(0.0);
    return value == 0.0 ? otherwise : value;
  };
  m.rope_original_max_seq = part.count("original_max_position_embeddings", m.max_seq);
  m.rope_factor = part.optional_number("factor").value_or(
      static_cast<double>(m.max_seq) / static_cast<double>(m.rope_original_max_seq));
  m.rope_beta_fast = or_default("beta_fast", kBetaFast);
  m.rope_beta_slow = or_default("beta_slow", kBetaSlow);
  m.rope_attention_factor = or_default("attention_factor", 0.0);
  m.rope_mscale = or_default("mscale", 0.0);
  m.rope_mscale_all_dim = or_default("mscale_all_dim", 0.0);
  m.rope_truncate = part.flag("truncate", true);
  part.ignore({"finetuned"});
}

}  // namespace

void read_rope(Reading& r, double theta, const Json& yarn) {
  HfFields& fields = r.fields;
  config::Model& m = r.config.model;
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
  m.rope_theta = part.number("rope_theta", outside);
  if (fields.has("rope_theta") && m.rope_theta != outside) {
    part.problem("rope_theta", fmt::format("contradicts rope_theta = {} outside of it", outside));
  }
  if (m.rope_theta <= 1.0) {
    part.problem("rope_theta", "is too small: it must be above 1");
  }

  const std::string kind = part.text("rope_type", "default");
  if (kind == "linear") {
    m.rope_scaling = config::RopeScaling::kLinear;
    if (!part.has("factor")) {
      part.problem("factor", "is missing");
    }
    m.rope_factor = part.number("factor", 1.0);
  } else if (kind == "yarn") {
    m.rope_scaling = config::RopeScaling::kYarn;
    read_yarn(part, m);
  } else if (kind != "default") {
    fields.problem(fields.has("rope_parameters") ? "rope_parameters" : "rope_scaling",
                   fmt::format("has kind '{}', which is not supported (default, linear and yarn "
                               "are)",
                               kind));
    return;  // its fields are of that kind
  }
  if (m.rope_factor == 0.0) {
    part.problem("factor", "must be above 0");
  }
  for (const std::string& problem : part.problems()) {
    fields.add(problem);
  }
}

void write_rope(const config::Model& model, Json& json) {
  json["rope_theta"] = model.rope_theta;
  if (model.rope_scaling == config::RopeScaling::kNone) {
    json["rope_scaling"] = nullptr;
    return;
  }
  const bool yarn = model.rope_scaling == config::RopeScaling::kYarn;
  const char* const kind = yarn ? "yarn" : "linear";
  Json& scaling = json["rope_scaling"] = {{"type", kind}, {"rope_type", kind}};
  scaling["factor"] = model.rope_factor;
  if (!yarn) {
    return;
  }
  scaling["original_max_position_embeddings"] = model.rope_original_max_seq;
  scaling["beta_fast"] = model.rope_beta_fast;
  scaling["beta_slow"] = model.rope_beta_slow;
  scaling["truncate"] = model.rope_truncate;
  const auto set = [&](const char* name, double value) {
    if (value != 0.0) {
      scaling[name] = value;
    }
  };
  set("attention_factor", model.rope_attention_factor);
  set("mscale", model.rope_mscale);
  set("mscale_all_dim", model.rope_mscale_all_dim);
}

}  // namespace moesaic::hf
