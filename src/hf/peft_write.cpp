#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <map>
#include <numbers>
#include <set>
#include <utility>

#include "base/error.h"
#include "base/json.h"
#include "base/text.h"
#include "files/durable.h"
#include "hf/family.h"
#include "hf/peft.h"
#include "hf/peft_config.h"
#include "hf/peft_places.h"
#include "hf/peft_targets.h"
#include "hf/safetensors/safetensors.h"
#include "hf/unfinished.h"

namespace moesaic::hf {
namespace {

using Extents = std::vector<std::int64_t>;
using Names = std::set<std::string>;

constexpr const char* kGateUp = "gate_up_proj";  // gate_proj and up_proj of experts as one product

bool is_down(const std::string& name) { return name.ends_with(".down_proj.weight"); }
bool is_up(const std::string& name) { return name.ends_with(".up_proj.weight"); }

/// A stored tensor: A or B of one weight, or of those of all experts together.
struct Part {
  TensorToStore tensor;
  bool is_a = false;
  std::vector<const HfTensor*> members;
};

/// The folder that a request makes.
class Adapter {
 public:
  explicit Adapter(const PeftFolderRequest& request)
      : request_(request),
        tensors_(hf_tensors(*request.family, request.model, request.router)),
        asked_(request.names.begin(), request.names.end()) {
    check();
    const Names names = completed();
    json_ = config_of(names);
    config_ = parse_peft_config(json_.dump(), kPeftConfigName);
    std::map<std::string, std::size_t> places;
    for (const HfTensor& tensor : tensors_) {
      if (!names.contains(tensor.name)) {
        continue;
      }
      const PeftPlace place = place_of(tensor);
      for (const bool is_a : {true, false}) {
        const HfView& view = is_a ? place.a : place.b;
        const auto [found, is_new] = places.try_emplace(view.tensor, parts_.size());
        if (is_new) {
          const std::string stored = fmt::format("{}{}.weight", kPeftPrefix, view.tensor);
          parts_.push_back({{stored, request.type, view.shape}, is_a, {}});
        }
        parts_[found->second].members.push_back(&tensor);
      }
    }
  }

  const Json& config() const { return json_; }
  const std::vector<Part>& parts() const { return parts_; }

  /// Where gate_proj and up_proj are one product, its A has the rows of both, and B of each is zero
  /// in the columns of the other: twice the rank.
  std::vector<float> values(const Part& part, const ReadPart& read) const {
    std::vector<float> all(static_cast<std::size_t>(part.tensor.shape[0] * part.tensor.shape[1]));
    std::vector<float> one;
    for (const HfTensor* const member : part.members) {
      if (!asked_.contains(member->name)) {
        continue;
      }
      const PeftPlace place = place_of(*member);
      const HfView& view = part.is_a ? place.a : place.b;
      const Extents shape = part.is_a ? Extents{request_.rank, member->shape[1]}
                                      : Extents{member->shape[0], request_.rank};
      one.resize(static_cast<std::size_t>(shape[0] * shape[1]));
      read(fmt::format("{}.lora_{}.weight", module_of(member->name), part.is_a ? "A" : "B"), {0, 0},
           shape, one);
      const bool is_second = place.rank > request_.rank && is_up(member->name);
      const std::int64_t first =
          view.first + (is_second ? request_.rank * view.strides[part.is_a ? 0 : 1] : 0);
      for (std::int64_t i = 0; i < shape[0]; ++i) {
        for (std::int64_t j = 0; j < shape[1]; ++j) {
          all[static_cast<std::size_t>(first + i * view.strides[0] + j * view.strides[1])] =
              one[static_cast<std::size_t>(i * shape[1] + j)];
        }
      }
    }
    return all;
  }

 private:
  PeftPlace place_of(const HfTensor& tensor) const {
    return peft_places(tensor, *request_.family, request_.model, config_).front();
  }
  void check() const;
  Names completed() const;
  Json config_of(const Names& names) const;

  const PeftFolderRequest& request_;
  std::vector<HfTensor> tensors_;
  Names asked_;
  Json json_;
  PeftConfig config_;
  std::vector<Part> parts_;
};

void Adapter::check() const {
  Names possible;
  for (const HfTensor& tensor : tensors_) {
    if (may_be_adapted(tensor)) {
      possible.insert(tensor.name);
    }
  }
  std::vector<std::string> wrong;
  std::set_difference(asked_.begin(), asked_.end(), possible.begin(), possible.end(),
                      std::back_inserter(wrong));
  if (!wrong.empty()) {
    throw Error(Exit::kUsage, fmt::format("{}: cannot hold adapters of {}: only of matrices in "
                                          "the layers of the model",
                                          request_.folder.string(), join(wrong, ", ")));
  }
  require(!asked_.empty() && request_.rank > 0, "an adapter without weights or without a rank");
}

/// The names that are asked for, and those that are written along as zeros: PEFT joins the experts
/// of a layer, joins gate_proj and up_proj, and then looks for these below those of down_proj.
Names Adapter::completed() const {
  Names names = asked_, layers, layers_of_down, stacked;
  for (const HfTensor& tensor : tensors_) {
    if (!asked_.contains(tensor.name)) {
      continue;
    }
    if (tensor.stacked()) {
      stacked.insert(tensor.view.tensor);
    } else {
      (is_down(tensor.name) ? layers_of_down : layers).insert(std::string(experts_of(tensor.name)));
    }
  }
  for (const HfTensor& tensor : tensors_) {
    const std::string experts(experts_of(tensor.name));
    const bool joins = tensor.stacked()
                           ? stacked.contains(tensor.view.tensor)
                           : layers.contains(experts) ||
                                 (is_down(tensor.name) && layers_of_down.contains(experts));
    if (!experts.empty() && may_be_adapted(tensor) && joins) {
      names.insert(tensor.name);
    }
  }
  return names;
}

Json number(double value) {
  const auto whole = static_cast<std::int64_t>(value);
  return static_cast<double>(whole) == value ? Json(whole) : Json(value);
}

Json Adapter::config_of(const Names& names) const {
  Json ranks = Json::object(), alphas = Json::object();
  const bool joins_gate_up = std::any_of(tensors_.begin(), tensors_.end(), [&](const auto& tensor) {
    return names.contains(tensor.name) && !is_down(tensor.name) &&
           (tensor.stacked() || is_also_joined(tensor, *request_.family));
  });
  if (joins_gate_up) {  // so that the scale stays
    ranks[kGateUp] = 2 * request_.rank;
    alphas[kGateUp] = number(request_.alpha * (request_.rslora ? std::numbers::sqrt2 : 2.0));
  }
  Json json{{"alpha_pattern", alphas},
            {"auto_mapping", nullptr},
            {"base_model_name_or_path", request_.base_name},
            {"bias", "none"},
            {"fan_in_fan_out", false},
            {"inference_mode", true},
            {"init_lora_weights", true},
            {"layers_pattern", nullptr},
            {"layers_to_transform", nullptr},
            {"lora_alpha", number(request_.alpha)},
            {"lora_dropout", 0.0},
            {"modules_to_save", nullptr},
            {"peft_type", "LORA"},
            {"r", request_.rank},
            {"rank_pattern", ranks},
            {"revision", nullptr},
            {"task_type", "CAUSAL_LM"},
            {"use_dora", false},
            {"use_rslora", request_.rslora}};
  json["target_modules"] = target_modules(tensors_, names, *request_.family);
  json["target_parameters"] = target_parameters(tensors_, names, *request_.family);
  return json;
}

void write_weights(const Adapter& adapter, const ReadPart& read,
                   const std::filesystem::path& file) {
  std::vector<TensorToStore> tensors;
  for (const Part& part : adapter.parts()) {
    tensors.push_back(part.tensor);
  }
  SafetensorsWriter writer(file, tensors);
  for (const Part& part : adapter.parts()) {
    writer.write(adapter.values(part, read));
  }
  writer.close();
}

}  // namespace

void write_peft_folder(const PeftFolderRequest& request, const ReadPart& read,
                       const comm::Communicator& world) {
  std::unique_ptr<Adapter> adapter;
  world.together("plan the adapter", [&] {
    adapter = std::make_unique<Adapter>(request);
    if (world.is_root()) {
      begin_writing(request.folder);
    }
  });
  try {
    world.together("write the adapter", [&] {
      if (world.is_root()) {
        write_weights(*adapter, read, request.folder / kPeftWeightsName);
        files::write_whole(request.folder / kPeftConfigName, adapter->config().dump(2) + "\n");
        end_writing(request.folder);
      }
    });
  } catch (const comm::AgreedError&) {
    if (world.is_root()) {
      clear_written(request.folder);
    }
    throw;
  }
}

}  // namespace moesaic::hf
