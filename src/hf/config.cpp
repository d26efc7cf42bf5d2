#include "hf/config.h"

#include <fmt/format.h>

#include <utility>

#include "base/error.h"
#include "base/json.h"
#include "base/text.h"
#include "config/compare.h"
#include "files/strict_json.h"
#include "hf/config_parts.h"
#include "hf/rope.h"

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

const Family& family_of(const std::string& type, const std::string& where) {
  std::vector<std::string> names;
  for (const Family* family : families()) {
    if (family->name == type) {
      return *family;
    }
    names.emplace_back(family->name);
  }
  throw Error(Exit::kBadData, fmt::format("{}: model_type '{}' is not supported ({} are)", where,
                                          type, join(names, ", ")));
}

/// What no family computes with, or only training does.
void ignore_common(HfFields& f) {
  f.must_be("hidden_act", "silu");
  f.must_be("attention_dropout", 0.0);
  f.must_be("hidden_dropout", 0.0);
  f.must_be("is_encoder_decoder", false);
  f.must_be("add_cross_attention", false);
  f.must_be("output_router_logits", false);  // else transformers adds a loss of its own
  // How texts are cut, how weights began and what calls return: not what is computed.
  f.ignore({"model_type",
            "architectures",
            "transformers_version",
            "auto_map",
            "_name_or_path",
            "dtype",
            "torch_dtype",
            "use_cache",
            "initializer_range",
            "pad_token_id",
            "bos_token_id",
            "eos_token_id",
            "sep_token_id",
            "return_dict",
            "output_attentions",
            "output_hidden_states",
            "id2label",
            "label2id",
            "problem_type",
            "chunk_size_feed_forward",
            "tie_encoder_decoder",
            "_attn_implementation_autoset"});
}

/// A config of a canonical model.
config::Config sections(const config::Model& model, const config::Router& router) {
  config::Config config;
  config.model = model;
  config.router = router;
  canonicalise(config.model, config.router);
  return config;
}

/// How a family's config.json expresses a model.
struct Fit {
  std::vector<std::string> lost;  // keys that it cannot say
  std::string problem;            // why it would be refused
};
Fit fit_of(const Family& family, const config::Model& model, const config::Router& router) {
  HfConfig read;
  try {
    read = parse_hf_config(hf_config_of(family, model, router, DType::kF32).dump(), "config.json");
  } catch (const Error& error) {
    if (error.code() == Exit::kInternal) {
      throw;
    }
    return {{}, error.what()};
  }
  Fit fit;
  for (const config::Difference& lost :
       config::differences(sections(model, router), sections(read.model, read.router))) {
    fit.lost.push_back(fmt::format("{} = {}", lost.key, lost.was.empty() ? "(none)" : lost.was));
  }
  return fit;
}

}  // namespace

HfConfig parse_hf_config(const std::string& text, const std::string& where) {
  const Json object = parse_object(text, where);
  const std::string& type = object["model_type"].string();
  const Family& family = family_of(type, where);
  Reading r{HfFields(object, type), {}};
  r.config.family = &family;
  r.config.model.shared_experts = 0;
  r.config.router.balance = config::Balance::kNone;
  r.config.router.aux_loss = 0.0;
  ignore_common(r.fields);
  for (const Alias& alias : family.aliases) {
    r.fields.same(std::string(alias.ours), std::string(alias.theirs));
  }
  read_fields(family.fields, r);
  family.read(r);
  read_quantization(r);
  const std::vector<std::string> problems = r.fields.problems();
  if (!problems.empty()) {
    throw Error(Exit::kBadData,
                fmt::format("{}: this model cannot be used as it is described:\n  {}", where,
                            join(problems, "\n  ")));
  }
  return std::move(r.config);
}

Json hf_config_of(const Family& family, const config::Model& model, const config::Router& router,
                  DType type) {
  const config::Config config = sections(model, router);
  Json json{{"architectures", Json::array({family.architecture})},
            {"model_type", family.name},
            {"attention_dropout", 0.0},
            {"bos_token_id", nullptr},
            {"eos_token_id", nullptr},
            {"hidden_act", "silu"},
            {"initializer_range", 0.02},
            {"output_router_logits", false},
            {"use_cache", true}};
  json["torch_dtype"] = type == DType::kBf16  ? "bfloat16"
                        : type == DType::kF16 ? "float16"
                                              : "float32";
  write_rope(config.model, json);
  write_fields(family.fields, config.model, config.router, json);
  family.write(config.model, config.router, json);
  return json;
}

const Family& family_for(const config::Model& model, const config::Router& router) {
  if (model.experts == 0) {
    throw Error(Exit::kUsage,
                "no Hugging Face family has this dense model (model.experts = 0): only models with "
                "experts can be written as a folder");
  }
  std::string missing, refused;
  for (const Family* family : families()) {
    const Fit fit = fit_of(*family, model, router);
    if (fit.lost.empty() && fit.problem.empty()) {
      return *family;
    }
    if (fit.problem.empty()) {
      missing += fmt::format("\n  {} has not {}", family->name, join(fit.lost, ", "));
    } else {
      refused += fmt::format("\n  {}: {}", family->name, fit.problem);
    }
  }
  throw Error(Exit::kUsage,
              "no Hugging Face family has this model:" + (missing.empty() ? refused : missing));
}

}  // namespace moesaic::hf
