#include "hf/tensors.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "hf/keys.h"
#include "hf/safetensors/safetensors.h"

namespace moesaic::hf {
namespace {

using Extents = std::vector<std::int64_t>;

constexpr std::string_view kCorrectionBias = "e_score_correction_bias";

std::int64_t product(std::initializer_list<std::int64_t> factors) {
  std::int64_t result = 1;
  for (const std::int64_t factor : factors) {
    if (__builtin_mul_overflow(result, factor, &result)) {
      throw Error(Exit::kBadData, "config.json: a tensor of these sizes is too large");
    }
  }
  return result;
}

std::string replaced(std::string text, std::string_view from, std::string_view to) {
  const std::size_t at = text.find(from);
  return at == std::string::npos ? text : text.replace(at, from.size(), to);
}

/// Collects a model's tensors; a View of each comes from the family's names.
class Listing {
 public:
  Listing(HfFamily family, const HfKeys& keys) : family_(family), keys_(canonical(keys)) {}

  std::vector<HfTensor> all();

 private:
  std::int64_t size(const char* key) const { return integer_of(keys_, key); }
  bool has(const char* key) const { return size(key) != 0; }
  void add(const std::string& name, Extents shape);
  void add_linear(const std::string& name, std::int64_t out, std::int64_t in, bool bias);
  void add_grouped_query(const std::string& prefix);
  void add_latent(const std::string& prefix);
  void add_swiglu(const std::string& prefix, std::int64_t width, bool bias);
  void add_experts(const std::string& prefix);
  std::string stored_name(const std::string& name) const;
  void stack(HfTensor& tensor) const;

  HfFamily family_;
  HfKeys keys_;
  std::int64_t expert_ = -1;  // whose tensors are added
  std::vector<HfTensor> tensors_;
};

std::string Listing::stored_name(const std::string& name) const {
  if (family_ == HfFamily::kMixtral) {
    std::string other = replaced(name, ".mlp.", ".block_sparse_moe.");
    for (const auto& [ours, theirs] :
         {std::pair{"gate_proj", "w1"}, std::pair{"up_proj", "w3"}, std::pair{"down_proj", "w2"}}) {
      other = replaced(other, ours, theirs);
    }
    return other;
  }
  if (family_ == HfFamily::kQwen2Moe) {
    return replaced(name, ".shared_experts.", ".shared_expert.");
  }
  if (family_ == HfFamily::kGptOss) {
    return replaced(name, ".mlp.gate.", ".mlp.router.");
  }
  return name;
}

/// gpt-oss: the experts of a layer as one tensor, stored (in, out), gate and up by turns.
void Listing::stack(HfTensor& tensor) const {
  const std::int64_t experts = size("model.experts");
  const bool down = tensor.name.find(".down_proj.") != std::string::npos;
  const bool up = tensor.name.find(".up_proj.") != std::string::npos;
  const std::int64_t turns = down ? 1 : 2;
  const std::string prefix = tensor.name.substr(0, tensor.name.find(".experts."));
  HfView& view = tensor.view;
  view.tensor = prefix + (down ? ".experts.down_proj" : ".experts.gate_up_proj");
  const std::int64_t out = product({tensor.shape[0], turns});
  if (tensor.shape.size() == 1) {
    view.tensor += "_bias";
    view.shape = {experts, out};
    view.strides = {turns};
  } else {
    view.shape = {experts, tensor.shape[1], out};
    view.strides = {turns, out};
  }
  product({experts, out, tensor.shape.size() == 1 ? 1 : tensor.shape[1]});
  view.first = expert_ * row_major(view.shape)[0] + (up ? 1 : 0);
}

void Listing::add(const std::string& name, Extents shape) {
  HfTensor tensor{name, std::move(shape), {}};
  if (family_ == HfFamily::kGptOss && expert_ >= 0) {
    stack(tensor);
  } else {
    tensor.view = {stored_name(name), tensor.shape, 0, row_major(tensor.shape)};
  }
  tensors_.push_back(std::move(tensor));
}

void Listing::add_linear(const std::string& name, std::int64_t out, std::int64_t in, bool bias) {
  product({out, in});
  add(name + ".weight", {out, in});
  if (bias) {
    add(name + ".bias", {out});
  }
}

void Listing::add_grouped_query(const std::string& prefix) {
  const std::int64_t width = size("model.d_model"), dim = size("model.head_dim");
  const std::int64_t q = product({size("model.heads"), dim});
  const std::int64_t kv = product({size("model.kv_heads"), dim});
  add_linear(prefix + "q_proj", q, width, has("model.qkv_bias"));
  add_linear(prefix + "k_proj", kv, width, has("model.qkv_bias"));
  add_linear(prefix + "v_proj", kv, width, has("model.qkv_bias"));
  add_linear(prefix + "o_proj", width, q, has("model.output_bias"));
  const std::string& norm = keys_.at("model.qk_norm");
  if (norm != "none") {
    add(prefix + "q_norm.weight", {norm == "head" ? dim : q});
    add(prefix + "k_norm.weight", {norm == "head" ? dim : kv});
  }
  if (has("model.sinks")) {
    add(prefix + "sinks", {size("model.heads")});
  }
}

void Listing::add_latent(const std::string& prefix) {
  const std::int64_t width = size("model.d_model"), heads = size("model.heads");
  const std::int64_t nope = size("model.qk_nope_head_dim"), rope = size("model.qk_rope_head_dim");
  const std::int64_t dv = size("model.v_head_dim"), rank = size("model.kv_lora_rank");
  const std::int64_t q = product({heads, nope + rope});
  if (const std::int64_t q_rank = size("model.q_lora_rank"); q_rank > 0) {
    add_linear(prefix + "q_a_proj", q_rank, width, false);
    add(prefix + "q_a_layernorm.weight", {q_rank});
    add_linear(prefix + "q_b_proj", q, q_rank, false);
  } else {
    add_linear(prefix + "q_proj", q, width, false);
  }
  add_linear(prefix + "kv_a_proj_with_mqa", rank + rope, width, false);
  add(prefix + "kv_a_layernorm.weight", {rank});
  add_linear(prefix + "kv_b_proj", product({heads, nope + dv}), rank, false);
  add_linear(prefix + "o_proj", width, product({heads, dv}), false);
}

void Listing::add_swiglu(const std::string& prefix, std::int64_t width, bool bias) {
  add_linear(prefix + "gate_proj", width, size("model.d_model"), bias);
  add_linear(prefix + "up_proj", width, size("model.d_model"), bias);
  add_linear(prefix + "down_proj", size("model.d_model"), width, bias);
}

void Listing::add_experts(const std::string& prefix) {
  const std::int64_t experts = size("model.experts"), shared = shared_width_of(keys_);
  add_linear(prefix + "gate", experts, size("model.d_model"), has("router.gate_bias"));
  if (has_correction_bias(keys_)) {
    add(prefix + "gate." + std::string(kCorrectionBias), {experts});
  }
  for (expert_ = 0; expert_ < experts; ++expert_) {
    add_swiglu(fmt::format("{}experts.{}.", prefix, expert_), size("model.expert_d_ff"),
               has("model.expert_bias"));
  }
  expert_ = -1;
  if (shared > 0) {
    add_swiglu(prefix + "shared_experts.", shared, false);
    if (has("model.shared_gate")) {
      add(prefix + "shared_expert_gate.weight", {1, size("model.d_model")});
    }
  }
}

std::vector<HfTensor> Listing::all() {
  const std::int64_t width = size("model.d_model"), vocabulary = size("model.vocab_size");
  const auto dense = dense_layers_of(keys_);
  add_linear("model.embed_tokens", vocabulary, width, false);
  for (std::int64_t layer = 0; layer < size("model.layers"); ++layer) {
    const std::string prefix = fmt::format("model.layers.{}.", layer);
    add(prefix + "input_layernorm.weight", {width});
    if (is_latent(keys_)) {
      add_latent(prefix + "self_attn.");
    } else {
      add_grouped_query(prefix + "self_attn.");
    }
    add(prefix + "post_attention_layernorm.weight", {width});
    if (std::binary_search(dense.begin(), dense.end(), layer)) {
      add_swiglu(prefix + "mlp.", size("model.d_ff"), false);
    } else {
      add_experts(prefix + "mlp.");
    }
  }
  add("model.norm.weight", {width});
  if (!has("model.tie_embeddings")) {
    add_linear("lm_head", vocabulary, width, false);
  }
  return std::move(tensors_);
}

}  // namespace

std::vector<HfTensor> hf_tensors(HfFamily family, const HfKeys& keys) {
  return Listing(family, keys).all();
}

bool is_always_f32(std::string_view name) { return name.ends_with(kCorrectionBias); }

}  // namespace moesaic::hf
