#include "hf/peft_places.h"

#include "hf/family.h"
#include "hf/safetensors/safetensors.h"

namespace moesaic::hf {
namespace {

constexpr std::string_view kWeight = ".weight";
constexpr std::string_view kExperts = ".mlp.experts.";

HfView whole(std::string name, std::vector<std::int64_t> shape) {
  std::vector<std::int64_t> strides = row_major(shape);
  return {std::move(name), std::move(shape), 0, std::move(strides)};
}

PeftPlace by_itself(const HfTensor& tensor, const std::string& module, const PeftConfig& config) {
  PeftPlace place;
  const std::string parameter = module + std::string(kWeight);
  place.key = config.targets(parameter) ? parameter : module;
  place.rank = config.rank_of(place.key);
  place.a = whole(module + ".lora_A", {place.rank, tensor.shape[1]});
  place.b = whole(module + ".lora_B", {tensor.shape[0], place.rank});
  return place;
}

/// PEFT's A: (experts r, in), expert by expert. Its B: (rows, r experts), whose columns of one
/// expert lie `experts` apart; rows are those of gate_proj and up_proj, by turns in a family that
/// stacks experts, else one behind the other.
PeftPlace among_all(const HfTensor& tensor, const Family& family, const config::Model& model,
                    const PeftConfig& config, Joined joined) {
  const std::string experts(experts_of(tensor.name));
  const std::string_view behind = std::string_view(tensor.name).substr(experts.size());
  const std::int64_t expert = std::stoll(std::string(behind));
  const bool down = tensor.name.ends_with(".down_proj.weight");
  const bool up = tensor.name.ends_with(".up_proj.weight");
  const std::int64_t parts = down ? 1 : 2;
  const bool by_turns = family.stacked != nullptr && !down;
  PeftPlace place;
  place.joined = true;
  const std::string module = joined_module(experts, down, config);
  place.key = joined_parameter(tensor);
  place.rank = config.rank_of(place.key);
  const std::int64_t out = tensor.shape[0], in = tensor.shape[1], r = place.rank;
  const std::int64_t row = r * model.experts, width = parts * out;
  const std::int64_t turns = by_turns ? 2 : 1, first = up ? (by_turns ? 1 : out) : 0;
  const std::string a = module + ".lora_A", b = module + ".lora_B";
  if (joined == Joined::kAsNamed) {
    place.a = {a, {row, in}, expert * r * in, {in, 1}};
    place.b = {b, {width, row}, expert + first * row, {turns * row, model.experts}};
  } else {
    place.exchanged = true;
    place.a = {b, {in, row}, expert, {model.experts, row}};
    place.b = {a, {row, width}, expert * r * width + first, {turns, width}};
  }
  return place;
}

}  // namespace

std::string_view module_of(std::string_view name) {
  return name.substr(0, name.size() - kWeight.size());
}

std::string_view experts_of(std::string_view name) {
  const std::size_t at = name.find(kExperts);
  return at == std::string_view::npos ? std::string_view() : name.substr(0, at + kExperts.size());
}

bool may_be_adapted(const HfTensor& tensor) {
  return tensor.shape.size() == 2 && tensor.name.starts_with("model.layers.") &&
         tensor.name.ends_with(kWeight);
}

std::string joined_parameter(const HfTensor& tensor) {
  const bool down = tensor.name.ends_with(".down_proj.weight");
  return std::string(experts_of(tensor.name)) + (down ? "down_proj" : "gate_up_proj");
}

std::string joined_module(const std::string& experts, bool down, const PeftConfig& config) {
  const std::string module = experts.substr(0, experts.size() - 1);
  const bool nested = !down && config.targets(experts + "down_proj");
  return nested ? module + ".base_layer" : module;
}

std::vector<PeftPlace> peft_places(const HfTensor& tensor, const Family& family,
                                   const config::Model& model, const PeftConfig& config,
                                   Joined joined) {
  std::vector<PeftPlace> places;
  const std::string experts(experts_of(tensor.name));
  if (experts.empty() || family.stacked == nullptr) {
    const std::string ours(module_of(tensor.name)), theirs(module_of(tensor.view.tensor));
    places.push_back(by_itself(tensor, theirs, config));
    if (ours != theirs) {  // transformers 5 has renamed modules to the names that we use, too
      places.push_back(by_itself(tensor, ours, config));
    }
  }
  if (!experts.empty() && config.targets(joined_parameter(tensor))) {
    places.push_back(among_all(tensor, family, model, config, joined));
  }
  return places;
}

}  // namespace moesaic::hf
