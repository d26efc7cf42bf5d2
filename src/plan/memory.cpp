#include "plan/memory.h"

#include <algorithm>

#include "base/share.h"
#include "config/layers.h"
#include "plan/backward.h"
#include "plan/context_traffic.h"
#include "plan/numbers.h"
#include "plan/rank_model.h"

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

constexpr KeptInputs kAllInputs{true, true, true, true, true};

/// Activations of both norms (input, output, 1 / rms) and of attention (q, k, v, result, log of the
/// sum; q, k, v before norm and clamp; latent vectors and what they are made of).
Numbers attention_part(const config::Config& config, const Layout& layout, double tokens,
                       const KeptInputs& kept) {
  const config::Model& m = config.model;
  const Heads heads = heads_of(m, layout);
  const double k = real(config::key_width(m));
  const double v = real(config::value_width(m));
  const double qkv = heads.query * k + heads.kv * (k + v);
  const bool raw = m.qk_norm != config::QkNorm::kNone || m.clip_qkv > 0.0;
  const double latent = real(m.q_lora_rank + m.kv_lora_rank);
  const double inputs =
      real(m.d_model) * ((kept.attention ? 1.0 : 0.0) + (kept.feed_forward ? 1.0 : 0.0));
  // generate reads the compressed keys: queries and outputs have their width, by token and by head.
  const double entry = real(m.kv_lora_rank + m.qk_rope_head_dim);
  const bool absorbed = config.plan.job == "generate" && m.kv_lora_rank > 0;
  const double of_head = absorbed ? 3.0 * entry : 0.0;
  return {tokens * (inputs + (raw ? 2.0 : 1.0) * qkv + heads.query * (v + of_head) +
                    (kept.latent ? latent : 0.0)),
          outside(layout, tokens) * real(2 * m.d_model + 2) + tokens * (heads.query + latent)};
}

/// One layer with its gated feed-forward part: gate, up and their product.
Numbers dense_layer(const config::Config& config, const Layout& layout, double tokens,
                    const KeptInputs& kept) {
  const config::Model& m = config.model;
  Numbers n = attention_part(config, layout, tokens, kept);
  n.compute += tokens * real((kept.product ? 3 : 2) * m.d_ff) / real(layout.tp);
  return n;
}

/// A row's input, gate, up and output are kept, not the product; of the router logits, scores and
/// who else would do, choices, weights and places.
Numbers moe_layer(const config::Config& config, const Layout& layout,
                  const routing::GateState& gates, double tokens, double rows,
                  const KeptInputs& kept) {
  const config::Model& m = config.model;
  const std::int64_t experts = routing::expert_numbers(m, config.router, gates);
  Numbers n = attention_part(config, layout, tokens, kept);
  n.compute += tokens * real((kept.product ? 3 : 2) * config::shared_width(m)) / real(layout.tp) +
               rows * (real((kept.experts ? 2 : 1) * m.d_model) +
                       real(2 * m.expert_d_ff) / real(layout.expert_split()));
  n.fp32 += tokens * (real(3 * experts) / real(layout.tp) + real(5 * m.top_k)) + 2.0 * rows;
  return n;
}

double logits_bytes(const config::Config& config, const Layout& layout, double tokens,
                    bool training) {
  const double vocabulary = std::max(1.0, real(config.model.vocab_size) / real(layout.tp));
  const double rows = std::min(tokens, real(logit_rows(config.model.vocab_size, layout.tp)));
  const bool second = training && config.run.precision == DType::kBf16;
  return rows * vocabulary * (kFp32 + (second ? kBf16 : 0.0));
}

constexpr double kBlock = 256.0;  // columns with one scale (backend/packed_layout.h)

/// Bytes of one quantized weight, with its share of the scales.
double packed_bytes(std::optional<DType> quantize) {
  const double scale = 4.0 / kBlock;
  return quantize == DType::kInt8 ? 1.0 + scale : 0.5 + 2.0 / 32.0 + scale;
}

/// What parameters take that are not trained, in bytes.
struct Weights {
  double fp32 = 0.0, in_products = 0.0;
  double sum() const { return fp32 + in_products; }
};
Weights weights_of(RankModel& rank, const config::Config& config, bool training) {
  const bool narrow = config.run.precision == DType::kBf16;
  const bool quantized = !training && config.run.quantize.has_value();
  const auto pack = quantized ? std::optional(DType::kInt8) : std::nullopt;
  Weights weights;
  for (model::Parameter& p : rank.parameters.all()) {
    const model::Kept kept =
        model::kept(p.spec, narrow ? DType::kBf16 : DType::kF32, p.is_trained(), pack);
    if (kept.packed) {
      p.hold_aligned_blocks();
    }
    const double elements = real(p.spec.shape.numel());
    weights.fp32 += kept.values ? kFp32 * elements : 0.0;
    weights.in_products += kept.copy ? kBf16 * elements : 0.0;
    weights.in_products += kept.packed ? packed_bytes(config.run.quantize) * elements : 0.0;
  }
  return weights;
}

/// The same of the rank of tp that has most of them: quantized columns are block-aligned, which may
/// make a rank in the middle the largest.
Weights most_weights(const config::Config& config, const Layout& layout, std::int64_t stage,
                     bool training, const routing::GateState& gates, const model::Tuning& tuning) {
  Weights most;
  for (std::int64_t rank = layout.tp - 1; rank >= 0; --rank) {
    RankModel model(config, layout, stage, gates, rank, training ? tuning : model::Tuning::none());
    const Weights weights = weights_of(model, config, training);
    most = weights.sum() > most.sum() ? weights : most;
    if (training || !config.run.quantize) {
      break;
    }
  }
  return most;
}

/// Tokens of a micro-batch: of training, or of what is computed at once while nothing is trained.
double micro_batch_tokens(const config::Config& config, bool training) {
  const config::GenerateJob& generate = config.generate;
  if (training) {
    return real(config.train.micro_batch * config.data.seq_len);
  }
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

double sent_rows(const config::Config& config, const Layout& layout, double tokens) {
  const config::Model& m = config.model;
  const double choices = tokens * real(m.top_k);
  const double own = own_rows(layout, tokens) * real(m.top_k);
  const bool limited =
      config.plan.job == "train" || (config.plan.job == "score" && config.router.eval_capacity);
  const std::int64_t slots =
      limited ? expert_slots(config.router.capacity, config.router.capacity_factor,
                             static_cast<std::int64_t>(choices), m.experts)
              : 0;
  const double all = slots > 0 ? std::min(own, real(slots * m.experts)) : own;
  return layout.folded ? all / real(layout.tp) : all;
}

double quantized_bytes(const config::Config& config, const routing::GateState& gates) {
  const RankModel whole(config, {}, 0, gates);
  double bytes = 0.0;
  for (const model::Parameter& p : whole.parameters.all()) {
    bytes += (p.spec.quantizable() ? packed_bytes(config.run.quantize) : kFp32) *
             real(p.spec.shape.numel());
  }
  return bytes;
}

double page_bytes(const config::Config& config, const Layout& layout, std::int64_t stage) {
  return real(RankModel(config, layout, stage, {}).transformer.page_elements()) *
         compute_width(config);
}

double most_page_bytes(const config::Config& config, const Layout& layout) {
  std::int64_t most = 0;  // the stage with most layers, which are all alike in this
  const auto layers = [&](std::int64_t stage) {
    return layers_of_stage(config.model, layout, stage).size();
  };
  for (std::int64_t stage = 1; stage < layout.pp; ++stage) {
    most = layers(stage) > layers(most) ? stage : most;
  }
  return page_bytes(config, layout, most);
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
                   const routing::GateState& gates, Memory& memory) {
  const std::string& name = config.score.reference;
  if (config.plan.job != "score" || name.empty()) {
    return;
  }
  config::Config other = config;
  other.score.reference.clear();
  other.run.quantize = std::nullopt;
  if (name == "bf16" || name == "fp32") {
    other.run.precision = name == "bf16" ? DType::kBf16 : DType::kF32;
  }
  const Memory second = memory_per_rank(other, layout, stage, false, gates);
  memory.weights += second.weights;
  memory.copies += second.copies;
  memory.logits += second.logits;
}

}  // namespace

Memory memory_per_rank(const config::Config& config, const Layout& layout, std::int64_t stage,
                       bool training, const routing::GateState& gates,
                       const model::Tuning& tuning) {
  const config::Model& m = config.model;
  const Stage s = stage_of(m, layout, stage);
  // Scoring keeps nothing of earlier layers.
  const double whole = micro_batch_tokens(config, training);
  const double tokens = own_rows(layout, whole);
  const double rows = s.moe > 0 ? sent_rows(config, layout, whole) : 0.0;
  const double width = compute_width(config);
  const double dense_bytes =
      s.dense > 0 ? dense_layer(config, layout, tokens, kAllInputs).bytes(width) : 0.0;
  const double moe_bytes =
      s.moe > 0 ? moe_layer(config, layout, gates, tokens, rows, kAllInputs).bytes(width) : 0.0;

  Memory memory;
  const Weights weights = most_weights(config, layout, stage, training, gates, tuning);
  memory.weights = weights.fp32;
  memory.copies = weights.in_products;
  memory.logits = s.head ? logits_bytes(config, layout, tokens, training) : 0.0;
  // At most three rows of D on the way, and the gradients of gate, up and their product.
  memory.dispatch = width * rows *
                    (real(3 * m.d_model) +
                     (training ? 3.0 : 1.0) * real(m.expert_d_ff) / real(layout.expert_split()));
  memory.cache = config.plan.job == "generate" ? cache_bytes(config, layout, stage) : 0.0;
  if (!training) {
    memory.activations =
        std::max(dense_bytes, moe_bytes) + context_buffers(config, layout, whole, false);
    add_reference(config, layout, stage, gates, memory);
    return memory;
  }
  const RankModel rank(config, layout, stage, gates, -1, tuning);
  const Held held = held_by(rank);
  memory.gradients = kFp32 * held.sum();
  const double shared = layout.zero ? real(layout.copies()) : 1.0;
  const double expert_shares = layout.zero ? real(layout.expert_copies()) : 1.0;
  const double moment = config.train.moments == DType::kBf16 ? kBf16 : kFp32;
  memory.moments =
      2.0 * moment *
      (held.experts / expert_shares +
       held.summed_over_expert_stage / (layout.zero ? expert_shares * real(layout.tp) : 1.0) +
       held.summed_over_stage / (layout.zero ? shared * real(layout.tp) : 1.0) +
       held.others / shared);
  if (config.router.gradient_buffer > 0) {  // sums of deferred gradients
    memory.moments += kFp32 * held.experts / expert_shares;
  }
  // Beside the layers: the last norm, its gradient, and four gradients of the residual stream.
  const Numbers rest{outside(layout, tokens) * real(m.d_model),
                     outside(layout, tokens) * real(6 * m.d_model + 1)};
  double layers = 0.0;
  double inputs = 0.0;
  for (const auto& [layer, kept] : layers_in_backward(m, layout, stage, rank)) {
    layers += (config::has_experts(m, layer) ? moe_layer(config, layout, gates, tokens, rows, kept)
                                             : dense_layer(config, layout, tokens, kept))
                  .bytes(width);
    inputs += kFp32 * real(m.d_model) * outside(layout, tokens);
  }
  const double kept = layout.recompute ? inputs : layers;
  memory.activations =
      in_flight(config, layout, stage) / real(layout.chunks) * kept +
      (layout.recompute || layers == 0.0 ? std::max(dense_bytes, moe_bytes) : 0.0) +
      rest.bytes(width) + context_buffers(config, layout, whole, true);
  return memory;
}

void add_process(const config::Config& config, const Layout& layout, std::int64_t stage,
                 const routing::GateState& gates, const ModelSize& size,
                 const model::Tuning& tuning, Memory& memory) {
  const config::Model& m = config.model;
  const Stage s = stage_of(m, layout, stage);
  const bool training = config.plan.job == "train";
  const double rows =
      s.moe > 0 ? sent_rows(config, layout, micro_batch_tokens(config, training)) : 0.0;
  // What comes from other ranks is kept, and gate and up.
  const double kept =
      compute_width(config) * real(m.d_model + 2 * m.expert_d_ff / layout.expert_split());
  const RankModel rank(config, layout, stage, gates, -1, tuning);
  const double reached = reached_by_backward(m, layout, stage, rank).moe;
  const double layers =
      training && !layout.recompute
          ? std::max(1.0, reached * in_flight(config, layout, stage) / real(layout.chunks))
          : 1.0;
  const Held held = held_by(rank);
  memory.process =
      process_memory(config, layout, stage,
                     {.expert_gradients = training ? kFp32 * held.experts : 0.0,
                      .other_gradients = training ? kFp32 * (held.sum() - held.experts) : 0.0,
                      .largest = kFp32 * held.largest,
                      .blocks = 3.0 * real(size.tensors),
                      .passing = memory.activations + std::max(memory.dispatch, memory.logits),
                      .rows = rows * kept * layers + memory.dispatch});
}

}  // namespace moesaic::plan
