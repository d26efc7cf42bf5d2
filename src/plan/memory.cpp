#include "plan/memory.h"

#include <algorithm>
#include <cmath>

#include "plan/model_size.h"

namespace moesaic::plan {
namespace {

constexpr double kFp32 = 4.0;
constexpr double kBf16 = 2.0;

double real(std::int64_t value) { return static_cast<double>(value); }

/// Bytes of one number in a matrix product.
double compute_width(const config::Config& config) {
  return config.run.precision == config::Precision::kBf16 ? kBf16 : kFp32;
}

/// Weights of the experts (all of a group's ep-th part), and of everything else.
struct Held {
  double experts, others;
};
Held held_by_rank(const config::Config& config, const Layout& layout) {
  const ModelSize size = model_size(config);
  return {real(size.experts.total) / real(layout.ep), real(size.sum().total - size.experts.total)};
}

/// Parameters that are read in fp32 only: they have no bf16 copy.
double not_in_products(const config::Config& config) {
  const ModelSize size = model_size(config);
  const std::int64_t lookup = config.model.tie_embeddings ? 0 : size.embedding.total;
  return real(size.norms.total + size.router.total + lookup);
}

/// Choices that one micro-batch sends to experts: top_k for each token, or what the slots hold.
double dispatched_rows(const config::Config& config, double tokens) {
  const config::Model& m = config.model;
  const double choices = tokens * real(m.top_k);
  double slots = real(config.router.capacity);
  if (config.router.capacity_factor > 0.0) {
    slots = std::ceil(config.router.capacity_factor * choices / real(m.experts));
  }
  return slots > 0.0 ? std::min(choices, slots * real(m.experts)) : choices;
}

/// Numbers that the layers keep for backward, by their type.
struct Numbers {
  double compute = 0.0, fp32 = 0.0;
  double bytes(double width) const { return width * compute + kFp32 * fp32; }
};

/// Of both norms (input, output, 1 / rms) and attention (q, k, v, result, log of the sum).
Numbers attention_part(const config::Model& m, double tokens) {
  return {tokens * real(2 * m.d_model + 2 * (m.heads + m.kv_heads) * m.head_dim),
          tokens * real(2 * m.d_model + 2 + m.heads)};
}

/// One layer with its gated feed-forward part: gate, up and their product.
Numbers dense_layer(const config::Model& m, double tokens) {
  Numbers n = attention_part(m, tokens);
  n.compute += tokens * real(3 * m.d_ff);
  return n;
}

/// A row's input, gate, up and answer are kept, not the product; of the router the logits, scores,
/// choices, weights and places.
Numbers moe_layer(const config::Model& m, double tokens, double rows) {
  Numbers n = attention_part(m, tokens);
  n.compute += tokens * real(3 * m.shared_experts * m.expert_d_ff) +
               rows * real(2 * m.d_model + 2 * m.expert_d_ff);
  n.fp32 += tokens * real(2 * m.experts + 5 * m.top_k) + 2.0 * rows;
  return n;
}

/// The logits exist for one block of rows at a time, of about 4 MiB.
double logits_bytes(const config::Config& config, double tokens, bool training) {
  const double vocabulary = std::max(1.0, real(config.model.vocab_size));
  const double rows = std::min(tokens, std::clamp(std::floor(0x1p20 / vocabulary), 32.0, 512.0));
  const bool second = training && config.run.precision == config::Precision::kBf16;
  return rows * real(config.model.vocab_size) * (kFp32 + (second ? kBf16 : 0.0));
}

/// Share of a ring's data that each of its members sends.
double ring(std::int64_t members) { return real(members - 1) / real(members); }

}  // namespace

std::array<std::pair<std::string_view, double>, 7> Memory::classes() const {
  return {{{"weights fp32", weights},
           {"weights bf16", copies},
           {"gradients", gradients},
           {"AdamW moments", moments},
           {"activations", activations},
           {"dispatch buffers", dispatch},
           {"logits", logits}}};
}

double Memory::sum() const {
  double all = 0.0;
  for (const auto& [name, bytes] : classes()) {
    all += bytes;
  }
  return all;
}

Memory memory_per_rank(const config::Config& config, const Layout& layout, bool training) {
  const config::Model& m = config.model;
  const Held held = held_by_rank(config, layout);
  const double parameters = held.experts + held.others;
  // Scoring computes one window at a time and keeps nothing of earlier layers.
  const double tokens =
      training ? real(config.train.micro_batch * config.data.seq_len) : real(config.score.window);
  const std::int64_t moe = moe_layers(m);
  const std::int64_t dense = m.layers - moe;
  const double rows = moe > 0 ? dispatched_rows(config, tokens) : 0.0;
  const double width = compute_width(config);
  const double dense_bytes = dense > 0 ? dense_layer(m, tokens).bytes(width) : 0.0;
  const double moe_bytes = moe > 0 ? moe_layer(m, tokens, rows).bytes(width) : 0.0;

  Memory memory;
  memory.weights = kFp32 * parameters;
  memory.copies = width == kBf16 ? kBf16 * (parameters - not_in_products(config)) : 0.0;
  memory.logits = logits_bytes(config, tokens, training);
  // At most three rows of D on the way, and the gradients of gate, up and their product.
  memory.dispatch = width * rows * real(3 * m.d_model + (training ? 3 : 1) * m.expert_d_ff);
  if (!training) {
    memory.activations = std::max(dense_bytes, moe_bytes);
    return memory;
  }
  memory.gradients = kFp32 * parameters;
  memory.moments = 2.0 * kFp32 * parameters;
  // Beside the layers: the last norm, its gradient, and four gradients of the residual stream.
  const Numbers rest{tokens * real(m.d_model), tokens * real(6 * m.d_model + 1)};
  memory.activations = real(dense) * dense_bytes + real(moe) * moe_bytes + rest.bytes(width);
  return memory;
}

Traffic traffic_per_step(const config::Config& config, const Layout& layout) {
  const config::Model& m = config.model;
  const Held held = held_by_rank(config, layout);
  const double tokens = real(config.train.micro_batch * config.data.seq_len);
  const double micro_batches =
      std::ceil(real(config.train.batch) / real(config.train.micro_batch * layout.ranks()));
  const double rows =
      moe_layers(m) > 0 ? dispatched_rows(config, tokens) * real(moe_layers(m)) : 0.0;
  Traffic traffic;
  // There and back, forward and backward.
  traffic.ep =
      4.0 * micro_batches * rows * real(m.d_model) * compute_width(config) * ring(layout.ep);
  traffic.dp = 2.0 * kFp32 * held.experts * ring(layout.dp);
  traffic.replicas = 2.0 * kFp32 * held.others * ring(layout.ranks());
  return traffic;
}

}  // namespace moesaic::plan
