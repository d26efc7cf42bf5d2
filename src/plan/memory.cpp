#include "plan/memory.h"

#include <algorithm>
#include <cmath>

#include "base/share.h"
#include "config/layers.h"
#include "config/pool.h"
#include "plan/model_size.h"
#include "plan/numbers.h"

namespace moesaic::plan {
namespace {

/// Numbers that the layers keep for backward, by their type.
struct Numbers {
  double compute = 0.0, fp32 = 0.0;
  double bytes(double width) const { return width * compute + kFp32 * fp32; }
};

/// Heads of one rank; key and value heads are copied where there are fewer of them than ranks.
struct Heads {
  double query, kv;
};
Heads heads_of(const config::Model& m, const Layout& layout) {
  return {real(m.heads) / real(layout.tp), real(kv_heads_of_rank(m.kv_heads, layout.tp))};
}

/// Rows that a rank has outside of products.
double outside(const Layout& layout, double tokens) {
  return layout.sequence ? tokens / real(layout.tp) : tokens;
}

/// Activations of both norms (input, output, 1 / rms) and of attention (q, k, v, result, log of the
/// sum; q, k, v before norm and clamp; latent vectors and what they are made of).
Numbers attention_part(const config::Config& config, const Layout& layout, double tokens) {
  const config::Model& m = config.model;
  const Heads heads = heads_of(m, layout);
  const double k = real(config::key_width(m));
  const double v = real(config::value_width(m));
  const double qkv = heads.query * k + heads.kv * (k + v);
  const bool raw = m.qk_norm != config::QkNorm::kNone || m.clip_qkv > 0.0;
  const double latent = real(m.q_lora_rank + m.kv_lora_rank);
  // generate reads the compressed keys: queries and outputs have their width, by token and by head.
  const double entry = real(m.kv_lora_rank + m.qk_rope_head_dim);
  const bool absorbed = config.plan.job == "generate" && m.kv_lora_rank > 0;
  const double of_head = absorbed ? 3.0 * entry : 0.0;
  return {tokens * (real(2 * m.d_model) + (raw ? 2.0 : 1.0) * qkv + heads.query * (v + of_head) +
                    latent),
          outside(layout, tokens) * real(2 * m.d_model + 2) + tokens * (heads.query + latent)};
}

/// One layer with its gated feed-forward part: gate, up and their product.
Numbers dense_layer(const config::Config& config, const Layout& layout, double tokens) {
  const config::Model& m = config.model;
  Numbers n = attention_part(config, layout, tokens);
  n.compute += tokens * real(3 * m.d_ff) / real(layout.tp);
  return n;
}

/// A row's input, gate, up and output are kept, not the product; of the router logits, scores and
/// who else would do, choices, weights and places.
Numbers moe_layer(const config::Config& config, const Layout& layout, double tokens, double rows) {
  const config::Model& m = config.model;
  const std::int64_t experts = config::expert_numbers(m, config.router);
  Numbers n = attention_part(config, layout, tokens);
  n.compute += tokens * real(3 * config::shared_width(m)) / real(layout.tp) +
               rows * (real(2 * m.d_model) + real(2 * m.expert_d_ff) / real(layout.expert_split()));
  n.fp32 += tokens * (real(3 * experts) / real(layout.tp) + real(5 * m.top_k)) + 2.0 * rows;
  return n;
}

double logits_bytes(const config::Config& config, const Layout& layout, double tokens,
                    bool training) {
  const double vocabulary = std::max(1.0, real(config.model.vocab_size) / real(layout.tp));
  const double rows = std::min(tokens, real(logit_rows(config.model.vocab_size, layout.tp)));
  const bool second = training && config.run.precision == config::Precision::kBf16;
  return rows * vocabulary * (kFp32 + (second ? kBf16 : 0.0));
}

/// Experts of a layer on the rank that has most.
double fullest(const config::Config& config, const Layout& layout) {
  const std::string expert_pool = config::expert_pool_of(config.model, config.router, 0);
  const auto most = [&](char kind) {
    return std::ceil(real(config::count_of(expert_pool, kind)) / real(layout.expert_ranks()));
  };
  return most('r') + most('s');
}

constexpr std::int64_t kBlock = 256;  // columns with one scale (backend/packed_layout.h)

/// Bytes of one quantized weight, with its share of the scales.
double packed_bytes(config::Quantize quantize) {
  const double scale = 4.0 / real(kBlock);
  return quantize == config::Quantize::kInt8 ? 1.0 + scale : 0.5 + 2.0 / 32.0 + scale;
}

/// Weights of other ranks' columns that one keeps, as what a rank keeps is block-aligned.
double others_columns(const config::Config& config, const Layout& layout, std::int64_t stage) {
  const config::Model& m = config.model;
  const Stage s = stage_of(m, layout, stage);
  const auto more = [](std::int64_t columns, std::int64_t ranks) {
    std::int64_t most = 0;
    for (std::int64_t r = 0; r < ranks; ++r) {
      const Slice own = share_of(columns, r, ranks);
      most = std::max(most, block_aligned(own, kBlock, columns).count - own.count);
    }
    return real(most);
  };
  const double attention =
      real(s.dense + s.moe) * more(m.heads * config::value_width(m), layout.tp);
  const double dense = real(s.dense) * more(m.d_ff, layout.tp);
  const double shared = real(s.moe) * more(config::shared_width(m), layout.tp);
  const double experts =
      real(s.moe) * fullest(config, layout) * more(m.expert_d_ff, layout.expert_split());
  return real(m.d_model) * (attention + dense + shared + experts);
}

/// Tokens that a rank computes at once while nothing is trained.
double tokens_at_once(const config::Config& config) {
  const config::GenerateJob& generate = config.generate;
  if (config.plan.job == "generate") {
    return real(generate.prefill + config::sequences_at_once(generate));
  }
  return real(std::max(config.score.window, config::kScoreTokens));
}

/// Bytes of the cache of generate: pages of keys and values, and the slices of W_b that latent
/// attention reads by heads.
double cache_bytes(const config::Config& config, const Layout& layout, std::int64_t stage) {
  const config::Model& m = config.model;
  const Stage s = stage_of(m, layout, stage);
  const double by_heads = config::is_latent(m)
                              ? real(s.dense + s.moe) * heads_of(m, layout).query *
                                    real((m.qk_nope_head_dim + m.v_head_dim) * m.kv_lora_rank)
                              : 0.0;
  return real(cache_pages(config, layout)) * page_bytes(config, layout, stage) +
         compute_width(config) * by_heads;
}

/// Chunks of micro-batches that stage s keeps at the same time (1F1B, or interleaved).
double in_flight(const config::Config& config, const Layout& layout, std::int64_t stage) {
  return real(std::min(micro_batches_per_rank(config.train, layout) * layout.chunks,
                       chunks_ahead(stage, layout.pp, layout.chunks) + 1));
}

}  // namespace

Held held_by_rank(const config::Config& config, const Layout& layout, std::int64_t stage) {
  const config::Model& m = config.model;
  const Stage s = stage_of(m, layout, stage);
  const Heads heads = heads_of(m, layout);
  const double layers = real(s.dense + s.moe);
  const double d = real(m.d_model);
  const double table = real(m.vocab_size) / real(layout.tp) * d;
  const double norms = (2.0 * layers + (s.head ? 1.0 : 0.0)) * d;
  const GateSize gate = gate_size(config);
  const double state = real(gate.state);
  const double gates = real(s.moe * (gate.products + gate.tasks));
  const bool own_table = s.embedding && !(m.tie_embeddings && s.head);

  const double most_experts = fullest(config, layout);

  Held held;
  const AttentionSize a = attention_size(m);
  const double shared_gate = m.shared_experts > 0 && m.shared_gate ? real(s.moe) * d : 0.0;
  const double split_bias = m.expert_bias ? real(2 * m.expert_d_ff) : 0.0;
  const double whole_bias = m.expert_bias ? d : 0.0;
  const double vectors = layers * (heads.query * real(a.head_vectors) +
                                   heads.kv * real(a.kv_head_vectors) + real(a.output_bias));
  const double biases =
      real(s.moe) * most_experts * (split_bias / real(layout.expert_split()) + whole_bias);
  held.experts =
      real(s.moe) * most_experts * 3.0 * d * real(m.expert_d_ff) / real(layout.expert_split()) +
      biases;
  held.summed_over_stage = gates + (layout.sequence ? norms : 0.0) +
                           layers * real(a.shared + a.shared_vectors) + shared_gate;
  held.others =
      layers * (heads.query * real(a.by_head) + heads.kv * real(a.by_kv_head)) + vectors +
      (real(s.dense * m.d_ff) + real(s.moe * config::shared_width(m))) * 3.0 * d / real(layout.tp) +
      (layout.sequence ? 0.0 : norms) + real(s.moe) * state + (own_table ? table : 0.0) +
      (s.head ? table : 0.0);
  held.looked_up = m.tie_embeddings && s.embedding && s.head ? table : 0.0;
  held.not_in_products = norms + gates + shared_gate + vectors + biases +
                         layers * real(a.shared_vectors) + real(s.moe) * state +
                         (own_table ? table : 0.0);
  return held;
}

double sent_rows(const config::Config& config, const Layout& layout, double tokens) {
  const config::Model& m = config.model;
  const double choices = tokens * real(m.top_k);
  const bool limited =
      config.plan.job == "train" || (config.plan.job == "score" && config.router.eval_capacity);
  const std::int64_t slots =
      limited ? expert_slots(config.router.capacity, config.router.capacity_factor,
                             static_cast<std::int64_t>(choices), m.experts)
              : 0;
  const double all = slots > 0 ? std::min(choices, real(slots * m.experts)) : choices;
  return layout.folded ? all / real(layout.tp) : all;
}

double quantized_bytes(const config::Config& config) {
  config::Config alone = config;
  alone.parallel = {.expert_tp = 1};
  const Held held = held_by_rank(alone, Layout::of(alone, 1), 0);
  const double kept = held.not_in_products + held.looked_up;
  return kFp32 * kept + packed_bytes(config.run.quantize) * (held.sum() - kept);
}

double page_bytes(const config::Config& config, const Layout& layout, std::int64_t stage) {
  const config::Model& m = config.model;
  const Stage s = stage_of(m, layout, stage);
  const double numbers =
      config::is_latent(m)
          ? real(m.kv_lora_rank + m.qk_rope_head_dim)
          : heads_of(m, layout).kv * real(config::key_width(m) + config::value_width(m));
  return real((s.dense + s.moe) * kCachePage) * numbers * compute_width(config);
}

double most_page_bytes(const config::Config& config, const Layout& layout) {
  double most = 0.0;
  for (std::int64_t stage = 0; stage < layout.pp; ++stage) {
    most = std::max(most, page_bytes(config, layout, stage));
  }
  return most;
}

std::int64_t cache_pages(const config::Config& config, const Layout& layout) {
  return static_cast<std::int64_t>(config.generate.cache / most_page_bytes(config, layout));
}

std::array<std::pair<std::string_view, double>, 16> Memory::classes() const {
  std::array<std::pair<std::string_view, double>, 16> all = {
      {{"weights fp32", weights},
       {"weights of products", copies},
       {"gradients", gradients},
       {"AdamW moments", moments},
       {"activations", activations},
       {dispatch > logits ? "dispatch buffers" : "logits", std::max(dispatch, logits)},
       {"keys and values", cache}}};
  const auto of_process = process.classes();
  std::copy(of_process.begin(), of_process.end(), all.end() - std::ssize(of_process));
  return all;
}

double Memory::sum() const {
  double all = 0.0;
  for (const auto& [name, bytes] : classes()) {
    all += bytes;
  }
  return all;
}

namespace {

// Adds what score.reference needs: a second model and its logits. One from a path counts as
// unquantized.
void add_reference(const config::Config& config, const Layout& layout, std::int64_t stage,
                   Memory& memory) {
  const std::string& name = config.score.reference;
  if (config.plan.job != "score" || name.empty()) {
    return;
  }
  config::Config other = config;
  other.score.reference.clear();
  other.run.quantize = config::Quantize::kNone;
  if (name == "bf16" || name == "fp32") {
    other.run.precision = name == "bf16" ? config::Precision::kBf16 : config::Precision::kFp32;
  }
  const Memory second = memory_per_rank(other, layout, stage, false);
  memory.weights += second.weights;
  memory.copies += second.copies;
  memory.logits += second.logits;
}

}  // namespace

Memory memory_per_rank(const config::Config& config, const Layout& layout, std::int64_t stage,
                       bool training) {
  const config::Model& m = config.model;
  const Held held = held_by_rank(config, layout, stage);
  const Stage s = stage_of(m, layout, stage);
  // Scoring keeps nothing of earlier layers.
  const double tokens =
      training ? real(config.train.micro_batch * config.data.seq_len) : tokens_at_once(config);
  const double rows = s.moe > 0 ? sent_rows(config, layout, tokens) : 0.0;
  const double width = compute_width(config);
  const double dense_bytes = s.dense > 0 ? dense_layer(config, layout, tokens).bytes(width) : 0.0;
  const double moe_bytes = s.moe > 0 ? moe_layer(config, layout, tokens, rows).bytes(width) : 0.0;

  Memory memory;
  // While nothing is trained, products alone read their weights.
  const double in_products = held.sum() - held.not_in_products;
  const bool narrow = width == kBf16;
  memory.weights =
      kFp32 * (training || !narrow ? held.sum() : held.not_in_products + held.looked_up);
  memory.copies = narrow ? kBf16 * in_products : 0.0;
  if (!training && config.run.quantize != config::Quantize::kNone) {
    memory.weights = kFp32 * (held.not_in_products + held.looked_up);
    memory.copies =
        packed_bytes(config.run.quantize) * (in_products + others_columns(config, layout, stage));
  }
  memory.logits = s.head ? logits_bytes(config, layout, tokens, training) : 0.0;
  // At most three rows of D on the way, and the gradients of gate, up and their product.
  memory.dispatch = width * rows *
                    (real(3 * m.d_model) +
                     (training ? 3.0 : 1.0) * real(m.expert_d_ff) / real(layout.expert_split()));
  memory.cache = config.plan.job == "generate" ? cache_bytes(config, layout, stage) : 0.0;
  if (!training) {
    memory.activations = std::max(dense_bytes, moe_bytes);
    add_reference(config, layout, stage, memory);
    return memory;
  }
  memory.gradients = kFp32 * held.sum();
  const double shared = layout.zero ? real(layout.replicas()) : 1.0;
  const double expert_shares = layout.zero ? real(layout.dp) : 1.0;
  // Two moments, and a third sum of the experts' gradients where these are deferred.
  const double deferred = config.router.gradient_buffer > 0 ? 0.5 : 0.0;
  memory.moments = 2.0 * kFp32 *
                   ((1.0 + deferred) * held.experts / expert_shares +
                    held.summed_over_stage / (layout.zero ? shared * real(layout.tp) : 1.0) +
                    held.others / shared);
  // Beside the layers: the last norm, its gradient, and four gradients of the residual stream.
  const Numbers rest{outside(layout, tokens) * real(m.d_model),
                     outside(layout, tokens) * real(6 * m.d_model + 1)};
  const double layers = real(s.dense) * dense_bytes + real(s.moe) * moe_bytes;
  const double inputs = kFp32 * real((s.dense + s.moe) * m.d_model) * outside(layout, tokens);
  const double kept = layout.recompute ? inputs : layers;
  memory.activations = in_flight(config, layout, stage) / real(layout.chunks) * kept +
                       (layout.recompute ? std::max(dense_bytes, moe_bytes) : 0.0) +
                       rest.bytes(width);
  return memory;
}

void add_process(const config::Config& config, const Layout& layout, std::int64_t stage,
                 Memory& memory) {
  const config::Model& m = config.model;
  const Stage s = stage_of(m, layout, stage);
  const bool training = config.plan.job == "train";
  const double tokens =
      training ? real(config.train.micro_batch * config.data.seq_len) : tokens_at_once(config);
  const double rows = s.moe > 0 ? sent_rows(config, layout, tokens) : 0.0;
  // What comes from other ranks is kept, and gate and up.
  const double kept =
      compute_width(config) * real(m.d_model + 2 * m.expert_d_ff / layout.expert_split());
  const double layers = training && !layout.recompute
                            ? real(s.moe) * in_flight(config, layout, stage) / real(layout.chunks)
                            : 1.0;
  memory.process =
      process_memory(config, layout, stage,
                     {.gradients = memory.gradients,
                      .passing = memory.activations + std::max(memory.dispatch, memory.logits),
                      .rows = rows * kept * layers + memory.dispatch});
}

}  // namespace moesaic::plan
