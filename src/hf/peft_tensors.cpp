#include "hf/peft_tensors.h"

#include <fmt/format.h>

#include <optional>
#include <string_view>

#include "base/json.h"
#include "hf/peft_config.h"
#include "hf/safetensors/stored_dtype.h"
#include "hf/tensor_problems.h"

namespace moesaic::hf {
namespace {

/// "MODULE.lora_A" of "base_model.model.MODULE.lora_A.weight" or "....lora_A.default.weight";
/// nothing for names of other kinds.
std::optional<std::string> part_of(const std::string& name) {
  const std::size_t a = name.rfind(".lora_A."), b = name.rfind(".lora_B.");
  const std::size_t at = a == std::string::npos ? b : a;
  constexpr std::string_view kPrefix = kPeftPrefix, kPart = ".lora_A", kWeight = ".weight";
  if (at == std::string::npos || !name.starts_with(kPrefix) || !name.ends_with(kWeight)) {
    return std::nullopt;
  }
  const std::size_t end = at + kPart.size();
  const std::size_t last = name.size() - kWeight.size();
  const bool one_more = last > end && name.find('.', end + 1) == last;  // the adapter's name
  return last == end || one_more ? std::optional(name.substr(kPrefix.size(), end - kPrefix.size()))
                                 : std::nullopt;
}

/// What is wrong with a tensor that belongs to no weight of the model.
std::string kind_of_unknown(const std::string& name) {
  if (name.find("lora_embedding_") != std::string::npos ||
      name.find("embed_tokens.") != std::string::npos) {
    return "of the embedding, whose adapters are not supported";
  }
  if (name.find("lm_head.") != std::string::npos) {
    return "of the head, whose adapters are not supported";
  }
  if (name.find("lora_magnitude_vector") != std::string::npos) {
    return "of DoRA, which is not supported";
  }
  if (name.ends_with(".bias")) {
    return "that are biases, which are not supported";
  }
  return "that the model does not have";
}

}  // namespace

PeftTensors::PeftTensors(const std::string& text) {
  const Json json = Json::parse(text);
  for (const auto& [name, value] : json.items()) {
    stored_[name] = {value["dtype"].string(), value["shape"].get<std::vector<std::int64_t>>()};
    const std::optional<std::string> part = part_of(name);
    if (part && !names_.emplace(*part, name).second) {
      add("stored twice", fmt::format("{} and {}", names_[*part], name));
    } else {
      unused_.insert(name);
    }
  }
}

bool PeftTensors::fits(const HfView& part) const {
  return has(part) && stored_.at(names_.at(part.tensor)).shape == part.shape;
}

void PeftTensors::complete(HfView& part) {
  const auto found = names_.find(part.tensor);
  const bool first = checked_.insert(part.tensor).second;
  if (found == names_.end()) {
    if (first) {
      add("missing", fmt::format("{}{}.weight", kPeftPrefix, part.tensor));
    }
    return;
  }
  part.tensor = found->second;
  unused_.erase(part.tensor);
  if (first) {
    check(part);
  }
}

void PeftTensors::check(const HfView& part) {
  const Stored& tensor = stored_.at(part.tensor);
  const std::string problem = shape_problem(part.tensor, tensor.shape, part.shape);
  if (!problem.empty()) {
    add("of another shape", problem);
  }
  const auto type = stored_dtype(tensor.dtype);
  if (!type || *type == DType::kE4m3) {
    add("in a format that cannot be read", fmt::format("{} ({})", part.tensor, tensor.dtype));
  }
}

void PeftTensors::stored_again(const std::string& weight) {
  add("stored twice", "the update of " + weight);
}

std::string PeftTensors::problems() {
  for (const std::string& name : unused_) {
    add(kind_of_unknown(name), name);
  }
  unused_.clear();
  std::string text;
  for (const auto& [kind, tensors] : problems_) {
    list_tensors(text, tensors, kind);
  }
  return text;
}

}  // namespace moesaic::hf
