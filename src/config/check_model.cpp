#include <fmt/format.h>

#include <algorithm>

#include "base/text.h"
#include "config/checks.h"
#include "config/layers.h"

namespace moesaic::config {
namespace {

void check_latent(const Model& m, Lines& lines) {
  if (m.qk_nope_head_dim == 0 || m.qk_rope_head_dim == 0 || m.v_head_dim == 0) {
    lines.push_back(fmt::format(
        "model.kv_lora_rank = {} (latent attention) needs model.qk_nope_head_dim, qk_rope_head_dim "
        "and v_head_dim, which are {}, {} and {}",
        m.kv_lora_rank, m.qk_nope_head_dim, m.qk_rope_head_dim, m.v_head_dim));
  } else if (m.qk_rope_head_dim % 2 != 0) {
    lines.push_back(
        fmt::format("model.qk_rope_head_dim = {} is odd, but rotary positions turn pairs: use {}",
                    m.qk_rope_head_dim, m.qk_rope_head_dim + 1));
  }
  if (m.kv_heads != m.heads) {
    lines.push_back(fmt::format("model.kv_heads = {}: latent attention has as many as heads = {}",
                                m.kv_heads, m.heads));
  }
  if (m.qk_norm != QkNorm::kNone || m.clip_qkv > 0.0 || m.qkv_bias || m.sinks) {
    lines.emplace_back(
        "model.kv_lora_rank (latent attention) has no qk_norm, clip_qkv, qkv_bias and sinks: leave "
        "these out");
  }
}

void check_rope(const Model& m, Lines& lines) {
  if (m.rope_scaling == RopeScaling::kYarn && m.rope_original_max_seq == 0) {
    lines.emplace_back("model.rope_scaling = yarn needs model.rope_original_max_seq");
  }
}

void check_layer_lists(const Model& m, Lines& lines) {
  const auto check = [&](const char* key, const std::vector<std::int64_t>& list) {
    for (const std::int64_t layer : list) {
      if (layer >= m.layers) {
        lines.push_back(
            fmt::format("model.{} names layer {}, but model.layers = {}: the last is {}", key,
                        layer, m.layers, m.layers - 1));
      }
    }
  };
  check("dense_at", m.dense_at);
  check("window_layers", m.window_layers);
}

void check_attention(const Model& m, Lines& lines) {
  check_rope(m, lines);
  if (is_latent(m)) {
    check_latent(m, lines);
    return;
  }
  if (m.head_dim == 0) {
    lines.push_back(fmt::format(
        "model.d_model = {} is not a multiple of model.heads = {}: use d_model {}, or set "
        "model.head_dim",
        m.d_model, m.heads, near_multiples(m.heads, m.d_model)));
  } else if (m.head_dim % 2 != 0) {
    lines.push_back(
        fmt::format("model.head_dim = {} is odd, but rotary positions turn pairs: use {} or {}",
                    m.head_dim, std::max<std::int64_t>(2, m.head_dim - 1), m.head_dim + 1));
  }
  if (m.heads % m.kv_heads != 0) {
    lines.push_back(fmt::format("model.kv_heads = {} does not divide model.heads = {}: use {}",
                                m.kv_heads, m.heads, near_divisors(m.heads, m.kv_heads)));
  }
}

/// Whole experts over ep, or over ep x tp when they are folded.
void check_experts(const Model& m, const Parallel& parallel, Lines& lines) {
  const std::int64_t ep = parallel.ep;
  if (m.dense_layers > m.layers) {
    lines.push_back(fmt::format("model.dense_layers = {} is more than model.layers = {}",
                                m.dense_layers, m.layers));
  }
  if (moe_layers(m).empty()) {
    if (ep > 1) {
      lines.push_back(fmt::format(
          "parallel.ep = {} has no experts to share out, as every layer is dense: use 1", ep));
    }
    return;
  }
  if (m.experts == 0) {
    lines.push_back(fmt::format(
        "model.experts = 0 needs a dense model: set model.dense_layers = {} (= model.layers)",
        m.layers));
    return;
  }
  if (m.top_k > m.experts) {
    lines.push_back(fmt::format("model.top_k = {} is more than model.experts = {}: use 1 to {}",
                                m.top_k, m.experts, m.experts));
  }
  if (m.experts < ep) {
    lines.push_back(fmt::format("parallel.ep = {} is more than model.experts = {}: use ep {}", ep,
                                m.experts, near_divisors(m.experts, ep)));
  } else if (parallel.expert_tp == 1 && m.experts < ep * parallel.tp) {
    lines.push_back(
        fmt::format("parallel.expert_tp = 1 spreads experts over ep x tp = {}, more than "
                    "model.experts = {}: use ep {}, or expert_tp 0",
                    ep * parallel.tp, m.experts,
                    near_divisors(std::max<std::int64_t>(1, m.experts / parallel.tp), ep)));
  }
}

void check_groups(const Model& m, const Router& router, Lines& lines) {
  if (m.experts % router.groups != 0) {
    lines.push_back(fmt::format("router.groups = {} does not divide model.experts = {}: use {}",
                                router.groups, m.experts, near_divisors(m.experts, router.groups)));
  } else if (router.top_groups > router.groups) {
    lines.push_back(fmt::format("router.top_groups = {} is more than router.groups = {}",
                                router.top_groups, router.groups));
  } else if (m.top_k > m.experts / router.groups * router.top_groups) {
    lines.push_back(
        fmt::format("model.top_k = {} is more than the {} experts of router.top_groups = {}",
                    m.top_k, m.experts / router.groups * router.top_groups, router.top_groups));
  }
  if (router.groups > 1 && router.spare_experts > 0) {
    lines.push_back(fmt::format(
        "router.spare_experts = {} belong to no group: set it to 0, or router.groups to 1",
        router.spare_experts));
  }
}

void check_gate(const Model& m, const Router& router, Lines& lines) {
  if (router.candidates > 0 && !router.task_gate) {
    lines.push_back(
        fmt::format("router.candidates = {} needs router.task_gate = 1", router.candidates));
  } else if (router.candidates > 0 && router.candidates < m.top_k) {
    lines.push_back(fmt::format("router.candidates = {} is less than model.top_k = {}",
                                router.candidates, m.top_k));
  }
}

void check_overflow(const Router& router, Lines& lines) {
  if (router.capacity > 0 && router.capacity_factor > 0.0) {
    lines.push_back(fmt::format(
        "router.capacity = {} and router.capacity_factor = {} are both set: set one of them to 0",
        router.capacity, router.capacity_factor));
  }
  if (router.spare_experts > 0 && router.overflow != Overflow::kSpare) {
    lines.push_back(
        fmt::format("router.spare_experts = {} would never be used: set router.overflow = spare",
                    router.spare_experts));
  } else if (router.overflow == Overflow::kSpare && router.spare_experts == 0) {
    lines.emplace_back(
        "router.overflow = spare needs router.spare_experts: set it, or overflow = next");
  }
}

void check_router(const Model& m, const Router& router, Lines& lines) {
  check_overflow(router, lines);
  if (!moe_layers(m).empty() && m.top_k <= m.experts) {
    check_groups(m, router, lines);
    check_gate(m, router, lines);
  }
}

}  // namespace

std::string near_divisors(std::int64_t n, std::int64_t value) {
  Lines found;
  for (std::int64_t d = std::min(value, n); d >= 1; --d) {
    if (n % d == 0) {
      found.push_back(std::to_string(d));
      break;
    }
  }
  for (std::int64_t d = value + 1; d <= n; ++d) {
    if (n % d == 0) {
      found.push_back(std::to_string(d));
      break;
    }
  }
  return join(found, " or ");
}

std::string near_multiples(std::int64_t step, std::int64_t value) {
  const std::int64_t below = value / step * step;
  return below == 0 ? std::to_string(step) : fmt::format("{} or {}", below, below + step);
}

void check_model(const Config& config, Lines& lines) {
  check_attention(config.model, lines);
  check_layer_lists(config.model, lines);
  check_experts(config.model, config.parallel, lines);
  check_router(config.model, config.router, lines);
}

}  // namespace moesaic::config
