#include "plan/memory.h"

#include <algorithm>
#include <cmath>

#include "plan/model_size.h"

namespace moesaic::plan {
namespace {

constexpr double kFp32 = 4.0;
constexpr double kBf16 = 2.0;

double real(std::int64_t value) { return static_cast<double>(value); }

double activation_bytes(const config::Config& config) {
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

/// Numbers that attention keeps for one token: input, norm, q, k, v, result, and the log of the
/// sum.
double attention_numbers(const config::Model& m) {
  return real(2 * m.d_model + 2 * m.heads * m.head_dim + 2 * m.kv_heads * m.head_dim + m.heads);
}

/// Numbers that a gated feed-forward part keeps for one row: gate, up and their product.
double gated_numbers(std::int64_t width) { return real(3 * width); }

double layer_activations(const config::Config& config, double tokens, bool moe) {
  const config::Model& m = config.model;
  const double width = activation_bytes(config);
  double numbers = tokens * (attention_numbers(m) + real(2 * m.d_model));
  if (!moe) {
    return width * (numbers + tokens * gated_numbers(m.d_ff));
  }
  const double rows = dispatched_rows(config, tokens);
  numbers += tokens * gated_numbers(m.shared_experts * m.expert_d_ff);
  // Each row's input and output are kept as well: its output meets the gradient of its weight.
  numbers += rows * (gated_numbers(m.expert_d_ff) + real(2 * m.d_model));
  const double router = kFp32 * tokens * real(2 * m.experts);
  return width * numbers + router;
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
  // Scoring computes one window at a time, one layer after the other.
  const double tokens =
      training ? real(config.train.micro_batch * config.data.seq_len) : real(config.score.window);
  const std::int64_t moe = moe_layers(m);
  const std::int64_t dense = m.layers - moe;

  Memory memory;
  memory.weights = kFp32 * parameters;
  memory.copies = config.run.precision == config::Precision::kBf16 ? kBf16 * parameters : 0.0;
  memory.logits = kFp32 * tokens * real(m.vocab_size) * (training ? 2.0 : 1.0);
  if (moe > 0) {
    memory.dispatch =
        2.0 * activation_bytes(config) * dispatched_rows(config, tokens) * real(m.d_model);
  }
  const double dense_layer = layer_activations(config, tokens, false);
  const double moe_layer = layer_activations(config, tokens, true);
  if (training) {
    memory.gradients = kFp32 * parameters;
    memory.moments = 2.0 * kFp32 * parameters;
    memory.activations = real(dense) * dense_layer + real(moe) * moe_layer;
  } else {
    memory.activations = std::max(dense > 0 ? dense_layer : 0.0, moe > 0 ? moe_layer : 0.0);
  }
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
      4.0 * micro_batches * rows * real(m.d_model) * activation_bytes(config) * ring(layout.ep);
  traffic.dp = 2.0 * kFp32 * held.experts * ring(layout.dp);
  traffic.replicas = 2.0 * kFp32 * held.others * ring(layout.ranks());
  return traffic;
}

}  // namespace moesaic::plan
