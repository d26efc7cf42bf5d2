#include "hf/keys.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <set>

#include "base/error.h"
#include "base/text.h"

namespace moesaic::hf {
namespace {

/// Keys of sections model and router that have no effect on what a trained model computes.
const std::set<std::string>& training_only() {
  static const std::set<std::string> keys{
      "model.path",       "router.capacity",      "router.capacity_factor",
      "router.overflow",  "router.spare_experts", "router.gradient_buffer",
      "router.aux_loss",  "router.aux_scope",     "router.z_loss",
      "router.bias_rate", "router.eval_capacity", "router.force",
      "router.tasks"};
  return keys;
}

template <class T>
T parsed(const HfKeys& keys, const std::string& key) {
  const auto found = keys.find(key);
  require(found != keys.end(), key + ": no such key for a Hugging Face folder");
  const std::string& text = found->second;
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  require(error == std::errc() && end == text.data() + text.size(),
          fmt::format("{}: '{}' is not a number", key, text));
  return value;
}

bool is_number(const std::string& text, double& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size();
}

}  // namespace

std::int64_t integer_of(const HfKeys& keys, const std::string& key) {
  return parsed<std::int64_t>(keys, key);
}

double number_of(const HfKeys& keys, const std::string& key) { return parsed<double>(keys, key); }

std::vector<std::int64_t> integers_of(const HfKeys& keys, const std::string& key) {
  std::vector<std::int64_t> values;
  for (const std::string& part : split(keys.at(key), ',')) {
    if (!trim(part).empty()) {
      values.push_back(parsed<std::int64_t>({{key, std::string(trim(part))}}, key));
    }
  }
  return values;
}

bool is_latent(const HfKeys& keys) { return integer_of(keys, "model.kv_lora_rank") > 0; }

bool has_correction_bias(const HfKeys& keys) { return keys.at("router.balance") == "bias"; }

std::vector<std::int64_t> dense_layers_of(const HfKeys& keys) {
  const std::int64_t first = integer_of(keys, "model.dense_layers");
  const std::int64_t every = integer_of(keys, "model.moe_every");
  const auto listed = integers_of(keys, "model.dense_at");
  const std::set<std::int64_t> at(listed.begin(), listed.end());
  std::vector<std::int64_t> dense;
  for (std::int64_t layer = 0; layer < integer_of(keys, "model.layers"); ++layer) {
    if (layer < first || (layer + 1) % every != 0 || at.contains(layer)) {
      dense.push_back(layer);
    }
  }
  return dense;
}

std::int64_t shared_width_of(const HfKeys& keys) {
  const std::int64_t experts = integer_of(keys, "model.shared_experts");
  const std::int64_t width = integer_of(keys, "model.shared_d_ff");
  return experts > 0 && width == 0 ? experts * integer_of(keys, "model.expert_d_ff")
                                   : (experts > 0 ? width : 0);
}

HfKeys canonical(const HfKeys& keys) {
  HfKeys form = keys;
  const auto set = [&](const char* key, std::int64_t value) { form[key] = std::to_string(value); };
  const auto reset = [&](std::initializer_list<const char*> names, const char* value) {
    for (const char* name : names) {
      form[name] = value;
    }
  };
  for (const std::string& key : training_only()) {
    form.erase(key);
  }
  const std::int64_t heads = integer_of(keys, "model.heads");
  const std::int64_t width = integer_of(keys, "model.d_model");
  if (is_latent(keys)) {
    reset({"model.kv_heads", "model.head_dim"}, "0");
  } else {
    if (integer_of(keys, "model.kv_heads") == 0) {
      set("model.kv_heads", heads);
    }
    if (integer_of(keys, "model.head_dim") == 0) {
      set("model.head_dim", width / heads);
    }
  }
  if (integer_of(keys, "model.expert_d_ff") == 0) {
    set("model.expert_d_ff", width);
  }
  if (integer_of(keys, "model.d_ff") == 0) {
    set("model.d_ff", 4 * width);
  }
  const auto dense = dense_layers_of(keys);
  if (dense.empty()) {
    form["model.d_ff"] = form["model.expert_d_ff"];
  }
  form["model.dense_at"] = join(dense, ",");
  reset({"model.dense_layers"}, "0");
  reset({"model.moe_every"}, "1");
  const std::int64_t shared = shared_width_of(form);
  set("model.shared_d_ff", shared);
  set("model.shared_experts", shared > 0 ? 1 : 0);
  if (shared == 0) {
    reset({"model.shared_gate"}, "0");
  }
  const auto windows = integers_of(keys, "model.window_layers");
  form["model.window_layers"] = join(windows, ",");
  if (integer_of(keys, "model.sliding_window") == 0 ||
      static_cast<std::int64_t>(windows.size()) == integer_of(keys, "model.layers")) {
    reset({"model.window_layers"}, "");
  }
  if (integer_of(keys, "router.groups") == 1) {
    reset({"router.top_groups"}, "1");
    reset({"router.group_score"}, "top2");
  }
  if (keys.at("model.rope_scaling") != "yarn") {
    reset({"model.rope_original_max_seq", "model.rope_attention_factor", "model.rope_mscale",
           "model.rope_mscale_all_dim"},
          "0");
    reset({"model.rope_beta_slow", "model.rope_truncate"}, "1");
    reset({"model.rope_beta_fast"}, "32");
  }
  if (keys.at("model.rope_scaling") == "none") {
    reset({"model.rope_factor"}, "1");
  }
  form["router.balance"] = has_correction_bias(keys) ? "bias" : "none";
  for (const auto& [key, neutral] : HfKeys{{"router.task_gate", "0"},
                                           {"router.candidates", "0"},
                                           {"router.temperature", "1"},
                                           {"router.threshold", "0"}}) {
    form.try_emplace(key, neutral);
  }
  for (auto& [key, value] : form) {
    if (double number = 0.0; is_number(value, number)) {
      value = fmt::format("{}", number);
    }
  }
  return form;
}

}  // namespace moesaic::hf
