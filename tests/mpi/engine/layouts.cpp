#include "mpi/engine/layouts.h"

#include <fmt/format.h>

#include <cmath>
#include <span>
#include <sstream>

#include "config/validate.h"
#include "engine/instance.h"

namespace moesaic::testing {
namespace {

config::Config layout(const config::Config& base, int tp, int pp, int ep, int expert_tp,
                      std::size_t number) {
  config::Config c = base;
  const bool interleaved = pp > 1 && c.model.layers >= 2 * pp && number % 2 == 0;
  c.parallel = {.tp = tp,
                .pp = pp,
                .ep = ep,
                .zero = number / 2 % 2 == 0 ? 1 : 0,
                .sequence = tp > 1 && number / 4 % 2 == 0,
                .expert_tp = expert_tp,
                .schedule = interleaved ? config::PipelineSchedule::kInterleaved
                                        : config::PipelineSchedule::k1f1b,
                .virtual_stages = interleaved ? 2 : 1};
  c.train.recompute = number % 3 == 0;
  return c;
}

template <class T>
void broadcast_all(const comm::Communicator& world, std::vector<T>& values) {
  std::int64_t size = std::ssize(values);
  world.broadcast(std::span(&size, 1), 0);
  values.resize(static_cast<std::size_t>(size));
  world.broadcast(std::span(values), 0);
}

}  // namespace

void wide(config::Config& c) {
  c.model.layers = 5;
  c.model.dense_layers = 2;
  c.model.heads = 4;
  c.model.kv_heads = 2;
  c.model.experts = 8;
  c.model.shared_experts = 1;
  c.model.expert_d_ff = 11;
  c.model.d_ff = 37;
}

void wide_tied(config::Config& c) {
  wide(c);
  c.model.tie_embeddings = true;
  c.model.shared_experts = 0;
  c.router.score = config::Score::kSigmoid;
  c.router.balance = config::Balance::kBias;
  c.router.capacity = 5;
}

void spares(config::Config& c) {
  wide(c);
  c.router.capacity = 5;
  c.router.overflow = config::Overflow::kSpare;
  c.router.spare_experts = 3;
  c.router.gradient_buffer = 30;
  c.router.aux_scope = config::AuxScope::kBatch;
}

void moves(config::Config& c) {
  wide(c);
  c.router.capacity = 6;
  c.router.overflow = config::Overflow::kNext;
  c.router.task_gate = true;
  c.router.candidates = 6;
  c.router.temperature = 0.8;
}

void latent(config::Config& c) {
  wide(c);
  c.model.kv_heads = c.model.heads;
  c.model.q_lora_rank = 10;
  c.model.kv_lora_rank = 7;
  c.model.qk_nope_head_dim = 5;
  c.model.qk_rope_head_dim = 4;
  c.model.v_head_dim = 3;
  c.model.rope_interleave = true;
  c.router.score = config::Score::kSigmoid;
  c.router.groups = 4;
  c.router.top_groups = 2;
}

void normed(config::Config& c) {
  wide(c);
  c.model.dense_layers = 0;
  c.model.moe_every = 2;
  c.model.dense_at = {3};
  c.model.kv_heads = 1;
  c.model.qk_norm = config::QkNorm::kProjection;
  c.model.clip_qkv = 0.4;
  c.model.qkv_bias = true;
  c.model.shared_d_ff = 6;
  c.model.shared_gate = true;
}

void sinking(config::Config& c) {
  wide(c);
  c.model.qkv_bias = c.model.output_bias = c.model.sinks = true;
  c.model.qk_norm = config::QkNorm::kHead;
  c.model.sliding_window = 5;
  c.model.window_layers = {0, 2, 4};
  c.model.shared_experts = 0;
  c.model.expert_bias = true;
  c.model.swiglu_limit = 0.3;
  c.router.gate_bias = true;
  c.router.gradient_buffer = 30;
}

void upper(config::Config& c) {
  wide(c);
  c.train.trainable = {"last:2", "head"};
}

void pieces(config::Config& c) {
  sinking(c);
  c.router.gradient_buffer = 0;
  c.train.eps = 1e-5;  // some of them have next to no gradient
  c.train.trainable = {
      "*.q_proj.*",        "*.v_proj.bias",    "*.experts.1.*", "*.experts.6.up_proj.*",
      "*.mlp.gate.weight", "model.layers.3.*", "!*.o_proj.*"};
}

void latent_pieces(config::Config& c) {
  latent(c);
  c.train.trainable = {"*.kv_b_proj.weight", "*.q_a_proj.weight", "model.norm.weight"};
  c.train.lr_scale = {{"*.q_a_proj.weight", 0.1}};
}

void adapted(config::Config& c) {
  normed(c);
  c.model.clip_qkv = 0.0;
  c.adapter.rank = 3;
  c.adapter.alpha = 2.0;
  c.adapter.targets = {"all-linear", "gate"};
  c.train.trainable = {"adapter"};
  c.train.eps = 1e-6;
}

void adapted_latent(config::Config& c) {
  latent(c);
  c.adapter.rank = 2;
  c.adapter.targets = {"*_a_proj*", "kv_b_proj", "o_proj", "experts", "shared_experts"};
  c.train.trainable = {"adapter", "head", "*.kv_a_layernorm.weight"};
}

std::vector<LayoutCase> layout_cases() {
  return {
      {.name = "softmax", .golden = "softmax"},
      {.name = "sigmoid_bias", .golden = "sigmoid_bias"},
      {.name = "starved_expert",
       .golden = "sigmoid_bias",
       .starve = true,
       .change = [](config::Config& c) { c.model.experts = 4; }},
      {.name = "capacity",
       .golden = "capacity",
       .change = [](config::Config& c) { c.router.capacity = 6; }},
      {.name = "one_row",
       .golden = "capacity",
       .rows = 1,
       .change = [](config::Config& c) { c.router.capacity = 6; }},
      {.name = "wide", .golden = "softmax", .rows = 5, .change = wide},
      {.name = "wide_tied", .golden = "softmax", .rows = 5, .change = wide_tied},
      {.name = "spares", .golden = "softmax", .rows = 5, .change = spares},
      {.name = "moves", .golden = "softmax", .rows = 5, .change = moves},
      {.name = "latent", .golden = "softmax", .rows = 5, .change = latent},
      {.name = "normed", .golden = "softmax", .rows = 5, .change = normed},
      {.name = "sinking", .golden = "softmax", .rows = 5, .change = sinking},
      {.name = "upper", .golden = "softmax", .rows = 5, .change = upper},
      {.name = "pieces", .golden = "softmax", .rows = 5, .change = pieces},
      {.name = "latent_pieces", .golden = "softmax", .rows = 5, .change = latent_pieces},
      {.name = "adapted", .golden = "softmax", .rows = 5, .change = adapted},
      {.name = "adapted_latent", .golden = "softmax", .rows = 5, .change = adapted_latent},
      {.name = "short_rows", .golden = "softmax", .rows = 5, .change = wide, .short_rows = true},
      {.name = "bf16", .golden = "softmax_bf16", .rows = 3, .bf16 = true}};
}

std::string text_of(const config::Config& c) {
  const config::Parallel& p = c.parallel;
  return fmt::format(
      "tp={} pp={} ep={} cp={} expert_tp={} sequence={} zero={} virtual={} recompute={}", p.tp,
      p.pp, p.ep, p.cp, p.expert_tp, p.sequence, p.zero, p.virtual_stages, c.train.recompute);
}

std::vector<config::Config> layouts(const config::Config& base, int ranks) {
  std::vector<config::Config> list;
  for (int tp = 1; tp <= ranks; tp *= 2) {
    for (int pp = 1; tp * pp <= ranks; ++pp) {
      for (int ep = 1; tp * pp * ep <= ranks; ++ep) {
        for (const int expert_tp : tp > 1 ? std::vector<int>{tp, 1} : std::vector<int>{1}) {
          const config::Config c = layout(base, tp, pp, ep, expert_tp, list.size());
          if (config::problems(c, "score", ranks).empty()) {
            list.push_back(c);
          }
        }
      }
    }
  }
  return list;
}

std::vector<config::Config> some_of(const std::vector<config::Config>& all, std::size_t most) {
  const std::size_t step = (all.size() + most - 1) / most;
  std::vector<config::Config> some;
  for (std::size_t i = 0; i < all.size(); i += step) {
    some.push_back(all[i]);
  }
  return some;
}

std::map<std::string, double> distances(engine::Instance& instance,
                                        const std::map<std::string, std::vector<float>>& expected) {
  std::map<std::string, double> result;
  for (const model::Parameter& p : instance.parameters.all()) {
    for (const model::PublicTensor& tensor : p.spec.tensors) {
      const Slice rows = p.trained_rows_with(tensor);
      if (rows.count == 0) {
        continue;
      }
      const std::span<const float> grad = p.grad_rows(rows).as<float>();
      const std::vector<float>& whole = expected.at(tensor.name);
      double norm = 1e-30;
      for (const float g : whole) {
        norm += static_cast<double>(g) * static_cast<double>(g);
      }
      double distance = 0.0;
      for (std::int64_t i = 0; i < tensor.slice_shape().numel(); ++i) {
        const std::int64_t row = rows.begin + i / p.columns();
        if (row >= p.owned.begin && row < p.owned.end()) {
          const double difference =
              static_cast<double>(grad[static_cast<std::size_t>(i)]) -
              static_cast<double>(whole[static_cast<std::size_t>(tensor.whole_index(i))]);
          distance += difference * difference;
        }
      }
      result[tensor.name] = std::sqrt(distance / norm);
    }
  }
  return result;
}

void broadcast(Outcome& outcome) {
  const comm::Communicator world = comm::Communicator::world();
  broadcast_all(world, outcome.losses);
  broadcast_all(world, outcome.norms);
  broadcast_all(world, outcome.counts);
  std::string names;
  std::vector<float> values;
  for (const auto& [name, gradient] : outcome.gradients) {
    names += fmt::format("{} {}\n", name, gradient.size());
    values.insert(values.end(), gradient.begin(), gradient.end());
  }
  world.broadcast(names, 0);
  broadcast_all(world, values);
  std::istringstream list(names);
  auto next = values.cbegin();
  std::string name;
  for (std::int64_t size = 0; list >> name >> size; next += size) {
    outcome.gradients[name].assign(next, next + size);
  }
}

comm::Mesh& Meshes::of(const config::Config& config) {
  const config::Parallel& p = config.parallel;
  const auto [entry, added] = made_.try_emplace({p.tp, p.pp, p.ep, p.cp, config.model.kv_heads});
  if (added) {
    entry->second = engine::make_mesh(config);
  }
  return entry->second;
}

void Meshes::close() {
  for (auto& [degrees, mesh] : made_) {
    mesh.close();
  }
  made_.clear();
}

}  // namespace moesaic::testing
