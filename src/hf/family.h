#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "config/config.h"
#include "hf/config.h"
#include "hf/fields.h"

// A public family of models: what its config.json says in members of our config, forward and back,
// and how it names tensors. One file of families/ each. What an absent field means is what
// transformers' config classes say (5.24, models/*/configuration_*.py).
namespace moesaic::hf {

struct HfView;

/// A field of config.json that is one member of our config.
struct Field {
  using Member =
      std::variant<std::int64_t config::Model::*, double config::Model::*, bool config::Model::*,
                   double config::Router::*, bool config::Router::*>;
  const char* name;
  Member member;
  double absent = 0.0;       // the member where there is no such field
  std::int64_t least = 1;    // of a whole number
  bool may_be_null = false;  // which says 0, and is written for it
};

/// Two names of one thing; tensors: a piece of our names and what stands there in the family's.
struct Alias {
  std::string_view ours, theirs;
};

/// What is read of one config.json.
struct Reading {
  HfFields fields;
  HfConfig config;
};

struct Family {
  std::string_view name;          // "model_type" of config.json
  std::string_view architecture;  // class of transformers
  std::span<const Field> fields;
  std::span<const Alias> aliases;  // of fields: the name above, and another one
  /// What the fields do not say, after them.
  void (*read)(Reading& r);
  /// The same for a canonical model.
  void (*write)(const config::Model& model, const config::Router& router, Json& json);
  std::span<const Alias> renames = {};  // of tensors
  /// Where a tensor of an expert lies in the one of all experts of its layer; none: by itself.
  /// tensor: the name behind the expert's number, "up_proj.weight"; prefix: "model.layers.0.mlp.".
  HfView (*stacked)(const config::Model& model, const std::string& prefix,
                    const std::string& tensor, std::int64_t expert) = nullptr;
};

const Family& mixtral();
const Family& qwen2_moe();
const Family& qwen3_moe();
const Family& olmoe();
const Family& deepseek_v2();
const Family& deepseek_v3();
const Family& gpt_oss();

/// All of them; which one a model of ours is written as is decided in this order.
std::span<const Family* const> families();

}  // namespace moesaic::hf
