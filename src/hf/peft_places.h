#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "hf/peft_config.h"
#include "hf/tensors.h"

// Where the two matrices of an update may lie in a PEFT file.
namespace moesaic::hf {

/// One way in which a file may hold the update of a base weight.
struct PeftPlace {
  std::string key;  // what patterns of ranks are compared with
  std::int64_t rank = 0;
  HfView a, b;          // A (rank, in) and B (out, rank) in "MODULE.lora_A" and "MODULE.lora_B"
  bool joined = false;  // one of those of all experts of a layer
  bool exchanged = false;
};

/// Whether a base weight may have an update: a matrix, but neither embedding nor head.
bool may_be_adapted(const HfTensor& tensor);
/// "model.layers.0.self_attn.q_proj.weight" without ".weight".
std::string_view module_of(std::string_view name);
/// "model.layers.0.mlp.experts.", if the tensor is one of an expert's, else empty.
std::string_view experts_of(std::string_view name);
/// "model.layers.0.mlp.experts.gate_up_proj" of an expert's gate_proj or up_proj.
std::string joined_parameter(const HfTensor& tensor);
/// The name of the module that holds A and B of all experts' gate_up_proj (or down_proj) of a
/// layer. PEFT wraps a module once for each parameter that it adapts: the outer one is down_proj.
std::string joined_module(const std::string& experts, bool down, const PeftConfig& config);

/// Whether A and B of joined experts are stored under each other's names and transposed, as PEFT
/// did before 0.19 where weights are stored (out, in).
enum class Joined { kAsNamed, kExchanged };

/// All places of a weight.
std::vector<PeftPlace> peft_places(const HfTensor& tensor, const Family& family,
                                   const config::Model& model, const PeftConfig& config,
                                   Joined joined = Joined::kAsNamed);

}  // namespace moesaic::hf
