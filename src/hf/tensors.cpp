#include "hf/tensors.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "base/error.h"
#include "config/layers.h"
#include "hf/family.h"
#include "hf/safetensors/safetensors.h"
#include "model/transformer.h"

namespace moesaic::hf {
namespace {

constexpr std::string_view kCorrectionBias = "e_score_correction_bias";
constexpr std::string_view kExperts = "experts.";

/// Sizes are counted in 64 bits: no tensor of a layer, nor those of all its experts together, may
/// have more elements.
void check_sizes(const config::Model& m) {
  constexpr std::int64_t kWidestHead = 65'536;  // each layer has a number for each of its pairs
  if (config::key_width(m) > kWidestHead) {
    throw Error(Exit::kBadData, fmt::format("config.json: heads of {} are wider than {}",
                                            config::key_width(m), kWidestHead));
  }
  const auto fits = [](std::initializer_list<std::int64_t> factors) {
    std::int64_t product = static_cast<std::int64_t>(sizeof(float));
    for (const std::int64_t factor : factors) {
      if (__builtin_mul_overflow(product, factor, &product)) {
        return false;
      }
    }
    return true;
  };
  const std::int64_t inputs =
      std::max({m.d_model, m.q_lora_rank, m.kv_lora_rank + m.qk_rope_head_dim});
  const std::int64_t of_head = m.qk_nope_head_dim + config::key_width(m) + config::value_width(m);
  if (!fits({m.vocab_size, m.d_model}) || !fits({m.heads + m.kv_heads, of_head, inputs}) ||
      !fits({m.d_model, m.d_ff}) || !fits({m.d_model, config::shared_width(m)}) ||
      !fits({2 * m.experts, m.d_model, m.expert_d_ff})) {
    throw Error(Exit::kBadData, "config.json: a tensor of these sizes is too large");
  }
}

std::string renamed(std::string name, std::span<const Alias> renames) {
  for (const Alias& alias : renames) {
    const std::size_t at = name.find(alias.ours);
    if (at != std::string::npos) {
      name.replace(at, alias.ours.size(), alias.theirs);
    }
  }
  return name;
}

HfView view_of(const Family& family, const config::Model& model, const std::string& name,
               const std::vector<std::int64_t>& shape) {
  const std::size_t experts = name.find(kExperts);
  std::int64_t expert = -1;
  if (family.stacked != nullptr && experts != std::string::npos) {
    const char* const number = name.data() + experts + kExperts.size();
    const char* const end = name.data() + name.size();
    const auto [behind, error] = std::from_chars(number, end, expert);
    require(error == std::errc(), name + ": no expert's number");
    return family.stacked(model, name.substr(0, experts), std::string(behind + 1, end), expert);
  }
  return {renamed(name, family.renames), shape, 0, row_major(shape)};
}

}  // namespace

std::vector<HfTensor> hf_tensors(const Family& family, config::Model model, config::Router router) {
  canonicalise(model, router);
  check_sizes(model);
  model::Parameters parameters;  // of one rank, which get no memory
  const model::Transformer transformer(parameters, model, router, model::Placement{});
  std::vector<HfTensor> tensors;
  for (const model::Parameter& parameter : parameters.all()) {
    for (const model::PublicTensor& tensor : parameter.spec.tensors) {
      if (!tensor.may_be_missing) {  // else a count of ours
        const std::vector<std::int64_t> shape = tensor.extent();
        tensors.push_back({tensor.name, shape, view_of(family, model, tensor.name, shape)});
      }
    }
  }
  return tensors;
}

bool is_always_f32(std::string_view name) { return name.ends_with(kCorrectionBias); }

}  // namespace moesaic::hf
