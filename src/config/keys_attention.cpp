#include "config/section.h"

namespace moesaic::config {
namespace {

std::vector<Key> projection_keys(const Section<Model>& s) {
  return {
      s.boolean("qkv_bias", &Model::qkv_bias, "Add a bias to queries, keys and values."),
      s.boolean("output_bias", &Model::output_bias, "Add a bias to the output of attention."),
      s.choice("qk_norm", &Model::qk_norm,
               "RMS norm of queries and keys before they are rotated: of each head, or of the "
               "whole projection."),
      s.number("clip_qkv", &Model::clip_qkv, at_least(0), "",
               "Clamp queries, keys and values to this size. 0: not."),
      s.boolean("sinks", &Model::sinks,
                "A learned logit for each head, which joins the softmax as a key without a value."),
      s.integer("sliding_window", &Model::sliding_window, between(0, 1e8), "tokens",
                "A token sees so many keys, its own included. 0: all before it."),
      s.integers("window_layers", &Model::window_layers, between(0, 1e5),
                 "Layers, counted from 0, that have the sliding window. Empty: all."),
  };
}

std::vector<Key> latent_keys(const Section<Model>& s) {
  return {
      s.integer("q_lora_rank", &Model::q_lora_rank, between(0, 1e6), "",
                "With latent attention: queries go through so many dimensions. 0: they do not."),
      s.integer("kv_lora_rank", &Model::kv_lora_rank, between(0, 1e6), "",
                "Latent attention: keys and values of all heads are made from so many numbers. 0: "
                "grouped-query attention."),
      s.integer("qk_nope_head_dim", &Model::qk_nope_head_dim, between(0, 1e5), "",
                "With latent attention: width of the part of a key that is not rotated."),
      s.integer("qk_rope_head_dim", &Model::qk_rope_head_dim, between(0, 1e5), "",
                "With latent attention: width of the rotated part, which all heads share."),
      s.integer("v_head_dim", &Model::v_head_dim, between(0, 1e5), "",
                "With latent attention: width of a value."),
  };
}

std::vector<Key> rope_keys(const Section<Model>& s) {
  return {
      s.boolean("rope_interleave", &Model::rope_interleave,
                "Rotate neighbouring elements as pairs, rather than those half a head apart."),
      s.choice("rope_scaling", &Model::rope_scaling,
               "How rotary frequencies are stretched for contexts longer than trained."),
      s.number("rope_factor", &Model::rope_factor, above(0), "",
               "Stretch of rope_scaling: its context by the trained one."),
      s.integer("rope_original_max_seq", &Model::rope_original_max_seq, between(0, 1e8), "tokens",
                "With yarn: the longest context before it was stretched."),
      s.number("rope_beta_fast", &Model::rope_beta_fast, above(0), "",
               "With yarn: pairs that turn more often than this in the trained context stay."),
      s.number("rope_beta_slow", &Model::rope_beta_slow, above(0), "",
               "With yarn: pairs that turn less often than this are stretched."),
      s.number(
          "rope_attention_factor", &Model::rope_attention_factor, at_least(0), "",
          "With yarn: factor on rotated queries and keys. 0: from mscale, or from the factor."),
      s.number("rope_mscale", &Model::rope_mscale, at_least(0), "",
               "With yarn: with rope_mscale_all_dim decides that factor. 0: absent."),
      s.number("rope_mscale_all_dim", &Model::rope_mscale_all_dim, at_least(0), "",
               "With yarn and latent attention: also scales the scores. 0: absent."),
      s.boolean("rope_truncate", &Model::rope_truncate,
                "With yarn: round the ends of the ramp between these to whole pairs."),
  };
}

}  // namespace

std::vector<Key> attention_keys() {
  const Section s("model", &Config::model, "train score generate plan");
  std::vector<Key> all = projection_keys(s);
  for (const auto& part : {latent_keys(s), rope_keys(s)}) {
    all.insert(all.end(), part.begin(), part.end());
  }
  return all;
}

}  // namespace moesaic::config
